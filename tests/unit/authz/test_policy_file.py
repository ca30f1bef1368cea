"""Reading policy files: the users' format loads unchanged, everything wrong is said at once, with its place."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.authz.policy import PolicyError, load_policy
from services.authz.policy.document import MAX_BYTES, InvalidPolicy
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Policy, Principal
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.policy.schema import policy_schema
from services.authz.policy.scope import EVERYWHERE

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "rbac-policies.yaml"
SHIPPED = ROOT / "configs" / "rbac-policies.yaml"

LIST_PODS = Action("", "pods", "list")
LOGS = Action("", "pods", "logs", "log")
DELETE_POD = Action("", "pods", "delete")
SCALE = Action("apps", "deployments", "scale", "scale")
LIST_NODES = Action("", "nodes", "list")


def problems(text: str | bytes) -> list[str]:
    """What is wrong with a policy, as ``line:column message``."""
    with pytest.raises(InvalidPolicy) as error:
        parse_policy(text.encode() if isinstance(text, str) else text)
    return [f"{each.line}:{each.column} {each.message}" for each in error.value.problems]


def role_with(line: str) -> str:
    return f"roles:\n  - name: r\n    {line}\n"


@pytest.mark.req("I2.4")
def test_the_users_file_loads_unchanged_and_means_what_it_says() -> None:
    policy = load_policy(GOLDEN)
    assert [role.name for role in policy.roles] == ["viewer", "operator", "admin", "developer"]
    engine = Engine(policy)

    def may(role: str, action: Action, namespace: str) -> bool:
        principal = Principal("kubegate", "somebody", (role,), namespaces=EVERYWHERE)
        asked = Action(action.group, action.resource, action.verb, action.subresource, namespace)
        return isinstance(engine.decide(principal, asked), Allowed)

    assert may("viewer", LIST_PODS, "default")
    assert may("viewer", LOGS, "development")
    assert not may("viewer", LOGS, "staging")
    assert not may("viewer", SCALE, "default")
    assert may("operator", DELETE_POD, "staging")
    assert may("operator", SCALE, "default")
    assert not may("operator", DELETE_POD, "production")
    assert may("admin", DELETE_POD, "production")
    assert may("admin", LIST_NODES, "")
    assert not may("operator", LIST_NODES, "")
    assert may("developer", SCALE, "feature-x")
    assert not may("developer", SCALE, "featurex")
    assert not may("developer", SCALE, "my-feature-x")
    assert not may("developer", DELETE_POD, "development")


@pytest.mark.req("I2.4")
def test_the_shipped_policy_has_the_roles_that_users_know() -> None:
    shipped, known = load_policy(SHIPPED).roles, load_policy(GOLDEN).roles
    assert shipped[: len(known)] == known
    assert [role.name for role in shipped[len(known) :]] == ["auditor"]


@pytest.mark.req("I2.11")
def test_every_problem_is_reported_at_once_with_line_and_column() -> None:
    text = """\
roles:
  - name: viewer
    permisions: [a]
    permissions: [k8s:pod:list, k8s:pods:exec, "*", k8s:*:list, 1, no, k8s:pods]
    namespaces: []
  - name: viewer
    permissions: {}
    namespaces: [Default, "a**", "a b"]
  - 3
  - {description: 2020-01-01}
rolez: 1
"""
    assert problems(text) == [
        "3:5 unknown key 'permisions'; the role knows name, description, permissions, namespaces, inherits, condition",
        "4:19 'k8s:pod:list' names the unknown resource 'pod'; did you mean 'pods'?",
        "4:33 'k8s:pods:exec' names the unknown verb 'exec'; "
        "pods has *, create, delete, evict, get, list, logs, patch, restart, update, watch",
        "4:48 '*' is not a permission; write k8s:<resource>:<verb>, k8s:<resource>:* or k8s:*",
        "4:53 'k8s:*:list' is not a permission; `*` may only stand alone and last, as in k8s:pods:* or k8s:*",
        '4:65 an entry of permissions must be a string, not a number; quote it: "1"',
        '4:68 an entry of permissions must be a string, not a boolean; quote it: "no"',
        "4:72 'k8s:pods' is not a permission; the verb is missing, as in k8s:pods:list or k8s:pods:*",
        "5:17 namespaces is empty; leave the key out for all of them, or remove the role for none",
        "6:11 duplicate role 'viewer'; the first is in line 2",
        "7:18 permissions must be a list of strings, not a mapping",
        "8:18 'Default' is not a namespace name (lower-case letters, digits and `-`, at most 63) "
        "and not a pattern such as `feature-*`",
        "8:27 'a**' has more than one `*`; a pattern may have one, as in `feature-*`",
        "8:34 'a b' is not a namespace name (lower-case letters, digits and `-`, at most 63) "
        "and not a pattern such as `feature-*`",
        "9:5 a role must be a mapping with the keys name, description, permissions, namespaces, "
        "inherits, condition, not a number",
        "10:5 the role lacks the key 'name'",
        "10:5 the role lacks the key 'permissions'",
        '10:19 description must be a string, not a date; quote it: "2020-01-01"',
        "11:1 unknown key 'rolez'; the policy knows roles, bindings, deny, tenants, cross_tenant",
    ]


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "1:1 the file is empty; to deny everything, write `roles: []`"),
        (b"# nothing\n", "1:1 the file is empty; to deny everything, write `roles: []`"),
        (b"roles: [", "2:1 not valid YAML: did not find expected node content"),
        (b"roles: []\n\xff", "2:1 not UTF-8 text"),
        (b"roles: \x01", "1:8 control characters are not allowed"),
        (b"roles: []\n---\nroles: []", "2:1 a policy is one document; remove this `---`"),
        (b"[]", "1:1 the policy must be a mapping with the key `roles`, not a list"),
        (b"{}", "1:1 the policy lacks the key 'roles'"),
        (b"roles:", "1:7 roles must be a list of roles, not empty"),
        (b"roles: " + b"[" * 1000, "1:24 nested deeper than 16 levels"),
        (b"roles: []\nroles: []", "2:1 duplicate key 'roles'; the first is in line 1"),
        (b"[a]: 1\nroles: []", "1:1 a key must be a plain name, not a list"),
        (b" " * (MAX_BYTES + 1), "1:1 the file is larger than 8 MiB"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_where_it_breaks(content: bytes, said: str) -> None:
    assert problems(content) == [said]


@pytest.mark.req("I2.11")
def test_anchors_aliases_and_tags_are_refused_so_no_file_can_expand_or_name_a_type() -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nroles: [*b, !!python/object/apply:os.system [id]]\n"
    assert problems(bomb) == [
        "1:1 unknown key 'a'; the policy knows roles, bindings, deny, tenants, cross_tenant",
        "1:4 the anchor &a is not allowed; write values out where used",
        "2:1 unknown key 'b'; the policy knows roles, bindings, deny, tenants, cross_tenant",
        "2:4 the anchor &b is not allowed; write values out where used",
        "2:8 the alias *a is not allowed; write the value out",
        "2:12 the alias *a is not allowed; write the value out",
        "3:9 the alias *b is not allowed; write the value out",
        "3:13 a role must be a mapping with the keys name, description, permissions, namespaces, "
        "inherits, condition, not a list",
        "3:13 the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed",
    ]


@pytest.mark.req("I2.11")
@given(st.binary(max_size=60) | st.text("roles:name-[]{}&*!|>'\"#,? \n\t1é\x00", max_size=60).map(str.encode))
def test_whatever_the_bytes_they_are_a_policy_or_refused_with_places(content: bytes) -> None:
    refused: InvalidPolicy | None = None
    try:
        parse_policy(content)
    except InvalidPolicy as error:
        refused = error
    assert refused is None or refused.problems
    assert refused is None or all(each.line >= 1 and each.column >= 1 for each in refused.problems)


@pytest.mark.parametrize("name", ["", "a b", "ключ", "-a", "a-", "a/b", "a" * 64, "system:masters"])
def test_a_role_name_must_fit_a_group_name_of_the_cluster(name: str) -> None:
    assert len(problems(f"roles:\n  - name: {json.dumps(name)}\n    permissions: []\n")) == 1


def test_a_list_has_a_limit() -> None:
    many = ", ".join(["k8s:*"] * 1001)
    assert problems(role_with(f"permissions: [{many}]")) == [
        "3:18 permissions has 1001 entries; at most 1000 are allowed"
    ]


def test_what_the_policy_does_not_know_yet_is_an_error_and_not_ignored() -> None:
    for key in ("conditions", "allow", "users"):
        assert len(problems(f"roles: []\n{key}: []\n")) == 1
    assert len(problems(role_with("permissions: []\n    inherits: [other]"))) == 1


def test_the_revision_is_the_digest_of_the_file() -> None:
    content = GOLDEN.read_bytes()
    assert parse_policy(content).revision == revision_of(content)
    assert revision_of(content) != revision_of(content + b"\n")


def test_no_roles_is_a_policy() -> None:
    assert parse_policy(b"roles: []") == Policy((), revision_of(b"roles: []"))


@pytest.mark.req("I2.11")
def test_an_unreadable_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        load_policy(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("roles: 1\n")
    with pytest.raises(PolicyError, match=r"broken\.yaml:1:8: roles must be a list of roles, not a number"):
        load_policy(broken)


def test_the_published_schema_is_the_current_one_and_accepts_what_users_have() -> None:
    published = json.loads((ROOT / "configs" / "rbac-policies.schema.json").read_text())
    assert published == policy_schema(), (
        "run: python -m services.authz.policy.schema > configs/rbac-policies.schema.json"
    )
    jsonschema.validate(yaml.safe_load(GOLDEN.read_text()), published)
    for broken in ({"roles": [{"name": "r"}]}, {"roles": [{"name": "r", "permissions": ["k8s:pod:list"]}]}, {"x": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, published)

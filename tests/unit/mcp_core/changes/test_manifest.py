"""Manifests are looked at before anything is asked (I8.10)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import DomainError, InvalidArgument
from services.mcp_core import manifest
from services.mcp_core.ports import Kind, Resource
from services.mcp_core.tools import REGISTRY, split_controls, validate
from services.mcp_core.tools.base import Invocation
from tests.unit.mcp_core.tools.session import MemorySession

DEPLOYMENT = Kind(Resource("apps", "v1", "deployments"), "Deployment", True)
NAMESPACE = Kind(Resource("", "v1", "namespaces"), "Namespace", False)
LOOKALIKES = ["аdmin", "ｗｅｂ", "we\u200bb", "web\u0301", "wéb"]
BAD_NAMES = ["..", ".", "a/b", "../a", "a%2fb", "a\x00", "a\n", "Web", "-a", "", "a" * 254, " a", *LOOKALIKES]


def nested(depth: int) -> dict[str, Any]:
    node: Any = "x"
    for _ in range(depth):
        node = {"a": node}
    return {"metadata": {"name": "a"}, "spec": node}


@pytest.mark.req("I8.10")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "line 1 has an anchor or alias"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "line 1 has an anchor"),
        ("a: 1\n---\nb: 2", "several YAML documents"),
        ("a: 1\na: 2", "line 2 repeats a key"),
        ("spec:\n  a: 1\n  a: 2", "line 3 repeats a key"),
        ("[1, 2]", "must be an object"),
        ("", "must be an object"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("a: !!binary aGk=", "nothing that JSON has"),
        ("1: a", "a key that is no text"),
        ("a: .nan", "no finite number"),
        ("a: " + "[" * 65 + "]" * 65, "nested deeper than 64"),
        ("a: '" + "x" * 300_000 + "'", "longer than 262144"),
        ('a: "\\0"', "a character that no text may have"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_plain_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        manifest.parse(text)
    assert message in refused.value.public_message


@pytest.mark.req("I8.10")
def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    read = manifest.parse("metadata: {name: a}\nwhen: 2020-01-01\nport: 80\ny: no\nnone:\n")
    assert read == {"metadata": {"name": "a"}, "when": "2020-01-01", "port": 80, "y": False, "none": None}
    with pytest.raises(InvalidArgument, match="a key that is no text; quote it"):
        manifest.parse("on: true")


@pytest.mark.req("I8.10")
def test_depth_is_bounded_in_json_too() -> None:
    manifest.parse(nested(60))
    for depth in (70, 5000):
        with pytest.raises(InvalidArgument, match="nested deeper than 64"):
            manifest.parse(nested(depth))
    with pytest.raises(InvalidArgument, match=r"data\.k has a character"):
        manifest.parse({"data": {"k": "a\x00b"}})
    with pytest.raises(InvalidArgument, match="data has a key with a character"):
        manifest.parse({"data": {"\udc00": "b"}})


@pytest.mark.req("I8.10")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_are_names(name: str) -> None:
    with pytest.raises(InvalidArgument):
        manifest.name_of({"metadata": {"name": name}})


@pytest.mark.req("I8.10")
@pytest.mark.parametrize("tool", [name for name, tool in REGISTRY.items() if not tool.read_only])
@pytest.mark.parametrize("bad", BAD_NAMES)
def test_no_tool_takes_a_name_that_is_none(tool: str, bad: str) -> None:
    """Whichever of its arguments the name is."""
    row = REGISTRY[tool]
    properties = row.input_schema["properties"]
    good: dict[str, Any] = {
        "name": "a",
        "namespace": "b",
        "kind": "deployment" if "enum" in properties.get("kind", {}) else "deployments",
        "replicas": 1,
        "image": "a:1",
        "data": {"a": "b"},
        "manifest": {"metadata": {"name": "a"}},
        "patch": {},
    }
    arguments = {name: value for name, value in good.items() if name in properties}
    validate(row, arguments)
    # "Web" may be a kind and an RBAC object's name; the others may nothing.
    for field in {"name", "namespace", "kind"} & set(arguments):
        if bad in ("Web", "a.") and field != "namespace":
            continue
        with pytest.raises(InvalidArgument):
            validate(row, {**arguments, field: bad})
    if "manifest" in arguments:
        with pytest.raises(InvalidArgument):
            row.resource_name(validate(row, {**arguments, "manifest": {"metadata": {"name": bad}}}))


@pytest.mark.req("I8.10")
def test_a_manifest_speaks_of_the_decided_kind_and_namespace_only() -> None:
    body, notes = manifest.fit({"metadata": {"name": "a"}}, DEPLOYMENT, "default")
    assert body == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "default"}}
    assert notes == []
    for wrong, said in (
        ({"kind": "Secret"}, "kind is 'Secret', but argument `kind` means Deployment"),
        ({"apiVersion": "v1"}, "apiVersion is 'v1', but argument `kind` means apps/v1"),
        ({"metadata": {"namespace": "production"}}, "metadata.namespace is 'production', but `namespace` is default"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            manifest.fit({"metadata": {"name": "a"}, **wrong}, DEPLOYMENT, "default")
        assert said in refused.value.public_message
    with pytest.raises(InvalidArgument, match="lies outside namespaces"):
        manifest.fit({"metadata": {"name": "a", "namespace": "x"}}, NAMESPACE, "")


@pytest.mark.req("I8.10")
def test_what_the_cluster_writes_is_left_out_with_a_note() -> None:
    given_: dict[str, Any] = {
        "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "managedFields": [], "labels": {"a": "b"}},
        "status": {"phase": "x"},
    }
    body, notes = manifest.fit(given_, DEPLOYMENT, "default")
    assert body["metadata"] == {"name": "a", "namespace": "default", "resourceVersion": "7", "labels": {"a": "b"}}
    assert "status" not in body
    assert notes == ["Left out, the cluster writes it itself: metadata.uid, metadata.managedFields, status."]
    body, notes = manifest.fit(given_, DEPLOYMENT, "default", new=True)
    assert "resourceVersion" not in body["metadata"]
    assert "metadata.resourceVersion" in notes[0]
    assert given_["metadata"]["uid"] == "u", "what was given stays as it was"


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.req("I8.10")
@given(st.dictionaries(st.sampled_from(["metadata", "kind", "apiVersion", "spec", "x"]), WILD, max_size=4))
async def test_whatever_is_sent_is_refused_in_our_words_or_asked_in_the_decided_place(wild: dict[str, Any]) -> None:
    session = MemorySession()
    row = REGISTRY["create_resource"]
    try:
        arguments = validate(row, {"kind": "deployments", "namespace": "default", "manifest": wild})
        name = row.resource_name(arguments)
        _, own = split_controls(arguments)
        assert row.prepare is not None
        await row.prepare(Invocation(own, ("default",), session, DEPLOYMENT))
    except DomainError:
        pass
    for _, ref, rest in session.asked:
        assert (ref.resource.plural, ref.namespace) == ("deployments", "default")
        assert rest["body"]["metadata"]["namespace"] == "default"
        assert rest["body"]["metadata"]["name"] == name
        assert rest["body"]["kind"] == "Deployment"

"""A policy file into the model, reporting every problem with its line and column at once."""

import hashlib
from collections.abc import Callable
from typing import TypeVar

from services.authz.policy.cel import compile_condition
from services.authz.policy.document import InvalidPolicy, Mapping, Node, Problem, Scalar, read
from services.authz.policy.fields import Fields
from services.authz.policy.model import NEVER, ROLE_NAME, Binding, DenyRule, Policy, Role, Tenant, Who
from services.authz.policy.scope import EVERYWHERE, NOWHERE
from services.authz.policy.tenants import overlaps
from services.common.identity import OWN_ISSUER

MAX_ROLES = 20_000
MAX_BINDINGS = 20_000
MAX_DENY = 1_000
MAX_TENANTS = 2_000
MAX_NAME = 512
"""Longest issuer, subject, group or tenant name, in characters."""

POLICY_KEYS = ("roles", "bindings", "deny", "tenants", "cross_tenant")
ROLE_KEYS = ("name", "description", "permissions", "namespaces", "inherits", "condition")
WHO_KEYS = ("subject", "issuer", "group", "tenant")
BINDING_KEYS = ("role", *WHO_KEYS, "expires", "condition")
DENY_KEYS = ("name", "description", "permissions", "namespaces", "condition")
TENANT_KEYS = ("name", "namespaces")
CROSS_KEYS = ("subject", "issuer", "group")

T = TypeVar("T")


def revision_of(content: bytes) -> str:
    """The revision of a policy file: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def parse_policy(content: bytes) -> Policy:
    """The policy in a file's bytes.

    Raises:
        InvalidPolicy: with everything that is wrong, never only the first.
    """
    root, problems = read(content)
    policy = _Parser(problems).policy(root, revision_of(content))
    if problems:
        raise InvalidPolicy(problems)
    return policy


class _Parser:
    def __init__(self, problems: list[Problem]) -> None:
        self._fields = Fields(problems, compile_condition)
        self._roles: dict[str, Node] = {}
        self._tenants: dict[str, Node] = {}
        self._inherits: dict[str, list[Scalar]] = {}

    def policy(self, root: Node, revision: str) -> Policy:
        fields = self._fields
        mapping = fields.expect(root, Mapping, "the policy", "a mapping with the key `roles`")
        if mapping is None:
            return Policy((), revision)
        keys = fields.keys(mapping, POLICY_KEYS, required=("roles",), what="the policy")
        roles = self._each(keys, "roles", "roles", "a role", ROLE_KEYS, MAX_ROLES, self._role)
        self._refuse_cycles()
        tenants = self._each(keys, "tenants", "tenants", "a tenant", TENANT_KEYS, MAX_TENANTS, self._tenant)
        for one, other, name in overlaps(tenants):
            where = self._tenants[max(one, other, key=lambda each: self._tenants[each].line)]
            fields.problem(where, f"tenants {one!r} and {other!r} would both own namespace {name!r}")
        bindings = self._each(keys, "bindings", "bindings", "a binding", BINDING_KEYS, MAX_BINDINGS, self._binding)
        denied: dict[str, Node] = {}
        return Policy(
            tuple(roles),
            revision,
            tuple(bindings),
            tuple(
                self._each(
                    keys,
                    "deny",
                    "deny rules",
                    "a deny rule",
                    DENY_KEYS,
                    MAX_DENY,
                    lambda node: self._deny(node, denied),
                )
            ),
            tuple(tenants),
            tuple(
                self._each(
                    keys, "cross_tenant", "entries", "an entry of cross_tenant", CROSS_KEYS, MAX_BINDINGS, self._crosser
                )
            ),
        )

    def _each(
        self,
        keys: dict[str, Node],
        key: str,
        plural: str,
        what: str,
        known: tuple[str, ...],
        limit: int,
        make: Callable[[Mapping], T],
    ) -> list[T]:
        if key not in keys:
            return []
        made = []
        for item in self._fields.items(keys[key], key, f"a list of {plural}", limit):
            mapping = self._fields.expect(item, Mapping, what, "a mapping with the keys " + ", ".join(known))
            if mapping is not None:
                made.append(make(mapping))
        return made

    def _role(self, mapping: Mapping) -> Role:
        fields = self._fields
        inherits_key = any(key.value == "inherits" for key, _ in mapping.entries)
        required = ("name",) if inherits_key else ("name", "permissions")
        keys = fields.keys(mapping, ROLE_KEYS, required=required, what="the role")
        name = self._name(keys, "role", self._roles)
        inherits = fields.strings(keys["inherits"], "inherits") if "inherits" in keys else []
        self._inherits[name] = inherits
        description = fields.description(keys)
        permissions = fields.permissions(keys)
        scope = fields.scope(keys["namespaces"]) if "namespaces" in keys else EVERYWHERE
        condition = fields.condition(keys)
        return Role(name, permissions, scope, description, tuple(each.value for each in inherits), condition)

    def _name(self, keys: dict[str, Node], what: str, seen: dict[str, Node]) -> str:
        name = self._fields.text(keys, "name")
        if not name:
            return ""
        node = keys["name"]
        if not ROLE_NAME.fullmatch(name):
            self._fields.problem(
                node,
                f"{name!r} is not a {what} name; use up to 63 of A-Z a-z 0-9 . _ - with a letter or digit first "
                "and last",
            )
        elif name in seen:
            self._fields.problem(node, f"duplicate {what} {name!r}; the first is in line {seen[name].line}")
        else:
            seen[name] = node
        return name

    def _refuse_cycles(self) -> None:
        names = set(self._roles)
        parents = {
            name: [each for each in entries if self._fields.known(each, names, "role")]
            for name, entries in self._inherits.items()
        }
        done: set[str] = set()
        for start in parents:
            # Depth first without recursion: a chain may be as long as there are roles.
            path: dict[str, None] = {}
            stack: list[tuple[str, Scalar | None, bool]] = [(start, None, False)]
            while stack:
                name, entry, leaving = stack.pop()
                if leaving:
                    del path[name]
                    done.add(name)
                elif name in path and entry is not None:
                    walked = list(path)
                    circle = " -> ".join([*walked[walked.index(name) :], name])
                    self._fields.problem(entry, f"roles inherit each other in a circle: {circle}")
                elif name not in done:
                    path[name] = None
                    stack.append((name, entry, True))
                    stack.extend((each.value, each, False) for each in reversed(parents[name]))

    def _who(self, keys: dict[str, Node], mapping: Mapping, what: str) -> Who:
        fields = self._fields
        given = [key for key in ("subject", "group", "tenant") if key in keys]
        if len(given) != 1:
            fields.problem(mapping, f"{what} names exactly one of subject, group and tenant")
        if "issuer" in keys and "tenant" in keys:
            fields.problem(keys["issuer"], "issuer belongs to a subject or a group")
        values = {key: fields.text(keys, key) for key in WHO_KEYS if key in keys}
        for key, value in values.items():
            if len(value) > MAX_NAME:
                fields.problem(keys[key], f"{key} is longer than {MAX_NAME} characters")
        if "tenant" in keys and values["tenant"]:
            fields.known(
                Scalar(keys["tenant"].line, keys["tenant"].column, values["tenant"], ""), set(self._tenants), "tenant"
            )
        if "subject" in keys:
            values.setdefault("issuer", OWN_ISSUER)
        return Who(**values)

    def _binding(self, mapping: Mapping) -> Binding:
        fields = self._fields
        keys = fields.keys(mapping, BINDING_KEYS, required=("role",), what="the binding")
        role = fields.string(keys["role"], "role") if "role" in keys else None
        if role is not None:
            fields.known(role, set(self._roles), "role")
        who = self._who(keys, mapping, "a binding")
        expires = fields.moment(keys["expires"], "expires") if "expires" in keys else NEVER
        return Binding(mapping.line, role.value if role else "", who, expires, fields.condition(keys))

    def _crosser(self, mapping: Mapping) -> Who:
        keys = self._fields.keys(mapping, CROSS_KEYS, required=(), what="an entry of cross_tenant")
        return self._who(keys, mapping, "an entry of cross_tenant")

    def _deny(self, mapping: Mapping, seen: dict[str, Node]) -> DenyRule:
        fields = self._fields
        keys = fields.keys(mapping, DENY_KEYS, required=("name", "permissions"), what="the deny rule")
        scope = fields.scope(keys["namespaces"]) if "namespaces" in keys else EVERYWHERE
        permissions = fields.permissions(keys)
        return DenyRule(
            self._name(keys, "deny rule", seen), permissions, scope, fields.description(keys), fields.condition(keys)
        )

    def _tenant(self, mapping: Mapping) -> Tenant:
        keys = self._fields.keys(mapping, TENANT_KEYS, required=TENANT_KEYS, what="the tenant")
        scope = self._fields.scope(keys["namespaces"]) if "namespaces" in keys else NOWHERE
        return Tenant(self._name(keys, "tenant", self._tenants), scope)

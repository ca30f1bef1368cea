"""The JSON Schema (2020-12) of policy files, for editors: ``python -m services.authz.policy.schema``."""

import json
from typing import Any

from services.authz.policy.cel import LASTING, PASSING
from services.authz.policy.conditions import MAX_TEXT
from services.authz.policy.fields import MAX_DESCRIPTION, MAX_ENTRIES
from services.authz.policy.model import ROLE_NAME
from services.authz.policy.parse import MAX_BINDINGS, MAX_DENY, MAX_NAME, MAX_ROLES, MAX_TENANTS
from services.authz.policy.permissions import GRANTABLE
from services.authz.policy.scope import MAX_LABEL

CUSTOM_PATTERN = r"^k8s:[a-z0-9-]+(?:\.[a-z0-9-]+){2,}:(?:\*|[a-z]+)$"
"""A grant for a custom kind: k8s:<plural>.<group>:<verb>."""

NAMESPACE_PATTERN = r"^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?|(?:[a-z0-9][a-z0-9-]*)?\*(?:[a-z0-9-]*[a-z0-9])?)$"

_NAME = {"type": "string", "pattern": f"^{ROLE_NAME.pattern}$"}
_DESCRIPTION = {"type": "string", "minLength": 1, "maxLength": MAX_DESCRIPTION}
_SOMEBODY = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}


def policy_schema() -> dict[str, Any]:
    """What an editor can know of a policy file. The parser knows more: duplicates, dangling names, circles,
    anchors, sizes, overlapping tenants and the types of conditions.
    """
    role = _object(
        ["name"],
        name=_NAME,
        description=_DESCRIPTION,
        permissions=_ref("permissions"),
        namespaces=_ref("namespaces"),
        inherits=_list(MAX_ENTRIES, _NAME, "Roles that a holder of this one holds too, each in its own namespaces."),
        condition=_ref("condition"),
    )
    role["anyOf"] = [{"required": ["permissions"]}, {"required": ["inherits"]}]
    binding = _object(
        ["role"],
        role=_NAME,
        subject=_SOMEBODY,
        issuer=_SOMEBODY | {"description": "Of the subject; left out: kubegate. Of the group; left out: any."},
        group=_SOMEBODY,
        tenant=_NAME,
        expires={"type": "string", "format": "date-time"},
        condition=_ref("condition"),
    )
    binding["oneOf"] = [{"required": [key]} for key in ("subject", "group", "tenant")]
    crosser = _object([], subject=_SOMEBODY, issuer=_SOMEBODY, group=_SOMEBODY)
    binding["not"] = {"required": ["tenant", "issuer"]}
    crosser["oneOf"] = [{"required": ["subject"]}, {"required": ["group"]}]
    deny = _object(
        ["name", "permissions"],
        name=_NAME,
        description=_DESCRIPTION,
        permissions=_ref("permissions"),
        namespaces=_ref("namespaces"),
        condition=_ref("condition"),
    )
    tenant = _object(["name", "namespaces"], name=_NAME, namespaces=_ref("namespaces"))
    document = _object(
        ["roles"],
        roles=_list(MAX_ROLES, role),
        bindings=_list(MAX_BINDINGS, binding, "Give a role to a person, a group or a tenant."),
        deny=_list(MAX_DENY, deny, "Beat every grant."),
        tenants=_list(MAX_TENANTS, tenant, "Own namespaces; a tenant's principals reach no other."),
        cross_tenant=_list(MAX_BINDINGS, crosser, "Who, being of no tenant, reaches all of them and what none owns."),
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kubegate RBAC policy",
        **document,
        "$defs": {
            "permissions": _list(
                MAX_ENTRIES,
                {"anyOf": [{"enum": sorted(GRANTABLE)}, {"type": "string", "pattern": CUSTOM_PATTERN}]},
                "`list` includes get and watch. k8s wildcards never include kubegate:.",
            ),
            "namespaces": _list(
                MAX_ENTRIES,
                {"type": "string", "maxLength": MAX_LABEL + 1, "pattern": NAMESPACE_PATTERN},
                "Names, or patterns with one `*`. Left out: everywhere.",
            )
            | {"minItems": 1},
            "condition": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_TEXT,
                "description": "CEL over " + ", ".join(LASTING | PASSING),
            },
        },
    }


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _list(limit: int, items: Any, description: str = "") -> dict[str, Any]:
    about = {"description": description} if description else {}
    return {"type": "array", "maxItems": limit, "items": items, **about}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    print(json.dumps(policy_schema(), indent=2))  # noqa: T201

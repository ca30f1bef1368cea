"""The JSON Schema (2020-12) of policy files, for editors: ``python -m services.authz.policy.schema``."""

import json
from typing import Any

from services.authz.policy.model import ROLE_NAME
from services.authz.policy.parse import MAX_DESCRIPTION, MAX_ENTRIES, MAX_ROLES
from services.authz.policy.permissions import GRANTABLE
from services.authz.policy.scope import MAX_LABEL

CUSTOM_PATTERN = r"^k8s:[a-z0-9-]+(?:\.[a-z0-9-]+){2,}:(?:\*|[a-z]+)$"
"""A grant for a custom kind: k8s:<plural>.<group>:<verb>."""

NAMESPACE_PATTERN = r"^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?|(?:[a-z0-9][a-z0-9-]*)?\*(?:[a-z0-9-]*[a-z0-9])?)$"


def policy_schema() -> dict[str, Any]:
    """What an editor can know of a policy file. The parser knows more: duplicates, anchors, sizes."""
    role = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "permissions"],
        "properties": {
            "name": {"type": "string", "pattern": f"^{ROLE_NAME.pattern}$"},
            "description": {"type": "string", "minLength": 1, "maxLength": MAX_DESCRIPTION},
            "permissions": {
                "type": "array",
                "maxItems": MAX_ENTRIES,
                "items": {"anyOf": [{"enum": sorted(GRANTABLE)}, {"type": "string", "pattern": CUSTOM_PATTERN}]},
                "description": "`list` includes get and watch. k8s wildcards never include kubegate:.",
            },
            "namespaces": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_ENTRIES,
                "items": {"type": "string", "maxLength": MAX_LABEL + 1, "pattern": NAMESPACE_PATTERN},
                "description": "Names, or patterns with one `*`. Left out: everywhere.",
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kubegate RBAC policy",
        "type": "object",
        "additionalProperties": False,
        "required": ["roles"],
        "properties": {"roles": {"type": "array", "maxItems": MAX_ROLES, "items": role}},
    }


if __name__ == "__main__":
    print(json.dumps(policy_schema(), indent=2))  # noqa: T201

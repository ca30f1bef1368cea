"""The OpenAPI 3.1 description of the REST interface, made from the registry."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from services.mcp_core.edge.token_request import EXCHANGE
from services.mcp_core.tools.base import Tool

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "missing": {
            "type": "object",
            "description": "The smallest grant that would have allowed it; namespace is empty outside namespaces.",
            "properties": {"permission": {"type": "string"}, "namespace": {"type": "string"}},
        },
        "confirm": {"type": "string", "description": "With 428: to be sent back as argument `confirm`."},
        "expires_in": {"type": "integer", "description": "With 428: seconds for which `confirm` is of use."},
        "preview": {"type": "object", "description": "With 428: what would change, as `dry_run` shows it."},
    },
}

_COMMON = {
    "400": "Bad arguments: which, and why.",
    "401": "Not authenticated.",
    "403": "Denied, or no such tool.",
    "429": "Too many requests; see Retry-After.",
    "503": "authn, authz, audit or the cluster is away; see Retry-After.",
}
_CLUSTER = {
    "404": "Not found in the cluster.",
    "409": "Conflicts with the state of the cluster, or with an earlier call or confirmation.",
    "422": "The cluster refuses the content.",
    "504": "The cluster did not answer in time.",
}

_CONFIRMED = {"428": "To be confirmed first: send the same arguments again with the `confirm` of this answer."}


_PASSWORD_GRANT: dict[str, Any] = {
    "type": "object",
    "required": ["username", "password"],
    "properties": {key: {"type": "string"} for key in ("username", "password", "otp")},
    "additionalProperties": False,
}
_ONE_OR_MORE = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_EXCHANGE_GRANT: dict[str, Any] = {
    "type": "object",
    "required": ["grant_type", "subject_token", "subject_token_type"],
    "properties": {
        "grant_type": {"const": EXCHANGE},
        **{
            key: {"type": "string"}
            for key in ("subject_token", "subject_token_type", "actor_token", "actor_token_type")
        },
        "scope": {"type": "string", "description": "Roles and direct permissions to keep, separated by blanks."},
        "requested_token_type": {"type": "string"},
        "audience": _ONE_OR_MORE,
        "resource": _ONE_OR_MORE,
    },
    "additionalProperties": False,
}


def document(registry: Mapping[str, Tool], base_url: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {
        "/mcp/resources": {
            "get": _operation(
                "list_offers", "The resources and tools that the caller may use.", {"type": "object"}, _COMMON
            )
        },
        "/auth/token": {
            "post": _operation(
                "issue_token",
                "A JWT for a user name and password, or in exchange for another (RFC 8693; a form, or JSON).",
                {
                    "type": "object",
                    "required": ["access_token", "token_type", "expires_in"],
                    "properties": {
                        "access_token": {"type": "string"},
                        "token_type": {"const": "Bearer"},
                        "expires_in": {"type": "integer", "description": "Seconds."},
                        "issued_token_type": {"type": "string", "description": "Of an exchange."},
                        "scope": {"type": "string", "description": "What an exchanged token keeps."},
                    },
                },
                {**_COMMON, "403": "The subject's token lets somebody else act."},
                body={"oneOf": [_PASSWORD_GRANT, _EXCHANGE_GRANT]},
            )
            | {"security": []}
        },
    }
    for tool in registry.values():
        paths[f"/mcp/tools/{tool.name}"] = {
            "post": _operation(
                tool.name,
                f"{tool.description} Needs {tool.permission}.",
                dict(tool.output_schema),
                _COMMON | _CLUSTER | (_CONFIRMED if "confirm" in tool.input_schema["properties"] else {}),
                body=dict(tool.input_schema),
            )
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "kubegate", "version": version("kubegate")},
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT."},
                "apiKey": {"type": "http", "scheme": "ApiKey", "description": "An API key or a JWT."},
            },
        },
    }


def _operation(
    name: str, summary: str, answer: dict[str, Any], errors: Mapping[str, str], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": {"application/json": {"schema": answer}}}}
        | {status: {"description": text, "content": problem} for status, text in sorted(errors.items())},
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation

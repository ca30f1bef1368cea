"""What tools/list shows: short, in a fixed order, a page at a time, and never stricter than what is enforced."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from services.common.errors import InvalidArgument
from services.mcp_core.config import Config
from services.mcp_core.mcp import product
from services.mcp_core.mcp.listed import ARGUMENTS, listed, shown_input
from services.mcp_core.mcp.pages import page
from services.mcp_core.tools import REGISTRY, TOOLSETS
from services.mcp_core.wiring import offered_tools
from tests.e2e.stack import VIEWER_TOOLS


def size(*names: str) -> int:
    """Bytes of tools/list for these tools, as JSON."""
    tools = [listed(REGISTRY[name]).model_dump(mode="json", by_alias=True, exclude_none=True) for name in names]
    return len(json.dumps({"tools": tools}, separators=(",", ":")).encode())


@pytest.mark.req("I6.8")
def test_the_list_is_short() -> None:
    assert size(*VIEWER_TOOLS) <= 8_000
    assert size(*REGISTRY) <= 30_000


@pytest.mark.req("I6.3", "I6.8")
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_what_is_shown_names_every_argument_and_allows_what_is_enforced(name: str) -> None:
    tool = REGISTRY[name]
    shown = listed(tool)
    assert set(shown.input_schema.get("properties", {})) == set(tool.input_schema.get("properties", {}))
    assert shown.input_schema.get("required", []) == tool.input_schema.get("required", [])
    assert shown.annotations is not None
    assert shown.annotations.read_only_hint is tool.read_only
    if not tool.read_only:
        assert (shown.annotations.destructive_hint, shown.annotations.idempotent_hint) == (
            tool.destructive,
            tool.idempotent,
        )
    jsonschema.Draft202012Validator.check_schema(shown.input_schema)
    for argument, schema in shown.input_schema.get("properties", {}).items():
        told = {key for key in tool.input_schema["properties"][argument] if key == "description"} <= set(schema)
        assert told or f"`{argument}`" in ARGUMENTS, argument


def test_arguments_that_are_named_like_keywords_stay() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"pattern": {"type": "string", "pattern": "^a$"}}}
    assert shown_input(schema)["properties"] == {"pattern": {"type": "string"}}


@pytest.mark.req("I6.8")
def test_pages_show_everything_once_in_order() -> None:
    names = [f"n{number:03}" for number in range(25)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        shown, cursor = page(names, str, cursor, 10)
        seen += shown
        if cursor is None:
            break
    assert seen == names
    rest, _ = page([*names[:5], *names[9:]], str, page(names, str, None, 8)[1], 10)
    assert rest[0] == "n009", "what went away in between is no reason to begin anew"
    for forged in ("x", "!!!!", "a\u00e9"):
        with pytest.raises(InvalidArgument, match="cursor"):
            page(names, str, forged, 10)


@pytest.mark.req("I6.8")
def test_groups_of_tools_can_be_switched_off_and_what_rests_on_them_goes_too() -> None:
    assert {name for names in TOOLSETS.values() for name in names} == set(REGISTRY)
    pack = product(offered_tools("all", ("resources", "workloads")))
    assert not set(TOOLSETS["resources"]) & set(pack.tools)
    assert "review_rollout" not in pack.prompts
    assert pack.resources == ()
    assert list(pack.tools) == sorted(pack.tools)
    with pytest.raises(ValueError, match="no group of tools"):
        Config._known_toolsets(("no-such",))

"""What lists ask and say, and how little room they take."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.mcp_core.ports import Columns
from services.mcp_core.tools import REGISTRY
from tests.unit.mcp_core.tools.reading import NAMESPACES, WIDGETS, call, many
from tests.unit.mcp_core.tools.session import MemorySession
from tests.unit.mcp_core.tools.test_tools import pod


@pytest.mark.req("I7.2")
async def test_five_thousand_pods_take_less_than_eight_thousand_tokens_and_say_how_to_get_the_rest() -> None:
    session = MemorySession({"pods": many(5000)})
    answer = await call("list_pods", {"namespace": "default"}, session)
    # Three characters a token is less than any tokenizer gives for such text; both forms of the answer count.
    assert (len(json.dumps(answer)) + len(REGISTRY["list_pods"].text(answer))) / 3 < 8000
    assert answer["truncated"]
    assert answer["remaining"] == 5000 - len(answer["pods"])
    assert all(word in answer["hint"] for word in ("continue", "namespace", "label_selector", "fields", "limit"))
    assert len(session.asked) == 1


@pytest.mark.req("I7.2")
async def test_long_names_are_cut_by_size_and_none_is_lost() -> None:
    session = MemorySession({"pods": [pod(f"p{index:03}-" + "x" * 200) for index in range(90)]})
    seen: list[str] = []
    arguments: dict[str, Any] = {"namespace": "default"}
    while True:
        answer = await call("list_pods", arguments, session)
        assert len(json.dumps(answer["pods"])) < 16_000
        seen += [one["name"] for one in answer["pods"]]
        if not answer["truncated"]:
            break
        arguments["continue"] = answer["continue"]
    assert seen == sorted(one["metadata"]["name"] for one in session.objects["pods"])


@pytest.mark.req("I7.2", "R14")
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 1500)),
)
def test_following_continue_gives_every_item_once(sizes: list[int], limit: int | None) -> None:
    pods = [one for index, size in enumerate(sizes) for one in many(size, f"n{index}")]
    names = tuple(f"n{index}" for index in range(len(sizes)))
    arguments: dict[str, Any] = {"all_namespaces": True} | ({"limit": limit} if limit else {})

    async def follow() -> None:
        seen: list[tuple[str, str]] = []
        for _ in range(4000):
            answer = await call("list_pods", arguments, MemorySession({"pods": pods}), names)
            assert not limit or len(answer["pods"]) <= limit
            seen += [(one["namespace"], one["name"]) for one in answer["pods"]]
            if not answer["truncated"]:
                break
            arguments["continue"] = answer["continue"]
        assert seen == [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in pods]

    asyncio.run(follow())


@pytest.mark.req("I7.2")
async def test_pages_bound_what_is_held_at_once() -> None:
    session = MemorySession({"pods": many(1800)})
    answer = await call("list_pods", {"namespace": "default", "limit": 1700}, session)
    assert len(answer["pods"]) == 1700
    assert [rest["limit"] for _, _, rest in session.asked] == [500, 500, 500, 200]


@pytest.mark.req("I7.2")
async def test_fields_are_the_only_ones_and_unknown_ones_are_named() -> None:
    session = MemorySession({"pods": many(2)})
    answer = await call("list_pods", {"namespace": "default", "fields": ["name", "status"]}, session)
    assert answer["pods"] == [{"name": f"web-7c5ddbdf54-0000{index}", "status": "Running"} for index in range(2)]
    with pytest.raises(InvalidArgument, match="'phase'; known: name"):
        await call("list_pods", {"namespace": "default", "fields": ["phase"]}, session)


@pytest.mark.req("I7.2")
async def test_field_selectors_reach_the_cluster() -> None:
    session = MemorySession({"pods": []})
    await call("list_pods", {"namespace": "default", "field_selector": "status.phase!=Running"}, session)
    assert session.asked[0][2]["field_selector"] == "status.phase!=Running"


@pytest.mark.req("R14")
@pytest.mark.parametrize("token", ["x", "!!", "bnVsbA", "WzEsMiwzXQ", "WyJhIiwiYiIsLTFd", "WyJhIiwiYiIsOTk5OV0"])
async def test_a_foreign_continue_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="`continue`"):
        await call("list_pods", {"namespace": "default", "continue": token}, MemorySession())


@pytest.mark.req("R14")
async def test_a_continue_of_another_namespace_reads_no_more_than_was_decided() -> None:
    session = MemorySession({"pods": [*many(2, "mine"), *many(2, "theirs")]})
    # ["theirs", "", 0]
    answer = await call("list_pods", {"namespace": "mine", "continue": "WyJ0aGVpcnMiLCIiLDBd"}, session)
    assert not [one for one in answer["pods"] if one["namespace"] != "mine"]
    assert {ref.namespace for _, ref, _ in session.asked} <= {"mine"}


@pytest.mark.req("R26")
async def test_a_list_of_secrets_never_asks_for_their_data() -> None:
    session = MemorySession(
        {"secrets": [{"metadata": {"name": "db", "namespace": "default"}, "cells": ["db", "Opaque", 2, "3d"]}]},
        columns=Columns(("Name", "Type", "Data", "Age")),
    )
    answer = await call("list_secrets", {"namespace": "default"}, session)
    assert answer["secrets"] == [{"name": "db", "namespace": "default", "type": "Opaque", "entries": 2, "age": "3d"}]
    assert [verb for verb, _, _ in session.asked] == ["table"]


@pytest.mark.req("I7.1")
async def test_any_kind_is_listed_in_the_clusters_own_columns() -> None:
    session = MemorySession(
        {
            "widgets": [
                {"metadata": {"name": f"w{index}", "namespace": "a"}, "cells": [f"w{index}", "ok", "token=CANARY"]}
                for index in range(2)
            ]
        },
        columns=Columns(("Name", "Phase", "Detail"), frozenset({2})),
    )
    one = await call("list_resources", {"kind": "widgets", "namespace": "a"}, session, kind=WIDGETS)
    assert (one["columns"], one["rows"]) == (["Name", "Phase"], [["w0", "ok"], ["w1", "ok"]])
    wide = {"kind": "widgets", "all_namespaces": True, "wide": True}
    every = await call("list_resources", wide, session, ("",), kind=WIDGETS)
    assert every["columns"] == ["Namespace", "Name", "Phase", "Detail"]
    assert every["rows"][0] == ["a", "w0", "ok", "token=[redacted]"]


@pytest.mark.req("R14", "R10")
async def test_namespaces_listed_as_any_kind_are_just_those_that_were_decided() -> None:
    session = MemorySession(
        {"namespaces": [{"metadata": {"name": name}, "cells": [name]} for name in ("a", "b", "c")]},
        columns=Columns(("Name",)),
    )
    answer = await call("list_resources", {"kind": "ns"}, session, ("a", "c"), kind=NAMESPACES)
    assert answer["rows"] == [["a"], ["c"]]


@pytest.mark.req("I7.2", "R14")
@pytest.mark.parametrize("tool", ["list_pods", "list_events", "top_pods", "list_services", "list_configmaps"])
async def test_an_empty_list_says_that_its_namespace_does_not_exist_to_whoever_may_know(tool: str) -> None:
    asked: list[str] = []

    async def missing(namespace: str) -> bool:
        asked.append(namespace)
        return namespace == "nowhere"

    session = MemorySession({"pods": [pod("web-1")]})
    answer = await call(tool, {"namespace": "nowhere"}, session, missing=missing)
    assert answer["hint"] == "There is no namespace nowhere; list_namespaces shows those that there are."
    assert "hint" not in await call(tool, {"namespace": "there"}, session, missing=missing)
    assert "hint" not in await call(tool, {"all_namespaces": True}, session, ("",), missing=missing)
    assert asked == ["nowhere", "there"]
    await call("list_pods", {"namespace": "default"}, session, missing=missing)
    assert asked == ["nowhere", "there"], "only where nothing was found"

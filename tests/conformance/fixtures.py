"""Tools, prompts and resources that only the conformance suite asks for. Never part of an installation.

They go the way of every tool: authenticated, decided by authz as a listing of pods, recorded by audit. What the suite
wants to see of each is in its scenarios; where one has to be asked something, it raises `InputRequired`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from services.common.errors import FailedPrecondition, NotFound
from services.mcp_core.errors import InputRequired
from services.mcp_core.mcp.pack import Argument, Block, Listing, Pack, Prompt, ResourceSource
from services.mcp_core.mcp.product import product
from services.mcp_core.model import Permission, ToolAnswer
from services.mcp_core.tools.base import Invocation, Structured, Tool, over_at_once

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="


class Nothing(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No arguments."""


class Said(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a fixture says."""

    text: str


Run = Callable[[Invocation], Awaitable[Structured]]


def _tool(
    name: str,
    run: Run,
    *,
    arguments: type[msgspec.Struct] = Nothing,
    blocks: Sequence[Block] = (),
    waits: bool = False,
    input_schema: Mapping[str, Any] | None = None,
) -> Tool:
    tool = Tool(
        name=name,
        title=name,
        description="A fixture of the conformance suite.",
        arguments=arguments,
        result=Said,
        permission=Permission("list", "", "pods"),
        run=run,
        namespaced=False,
        read_only=True,
        waits=(lambda arguments: True) if waits else over_at_once,
        text=lambda structured: str(structured["text"]),
        blocks=(lambda structured: tuple(blocks)) if blocks else None,
    )
    if input_schema is not None:
        object.__setattr__(tool, "input_schema", input_schema)
    return tool


def _says(text: str) -> Run:
    async def run(invocation: Invocation) -> Structured:
        return {"text": text}

    return run


def _elicit(message: str, **properties: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def _sample(text: str) -> Mapping[str, Any]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: Mapping[str, Any] = {"method": "roots/list", "params": {}}
TEXT: Mapping[str, Any] = {"type": "string"}
NAME = _elicit("What is your name?", name=TEXT)


def _answered(invocation: Invocation, requests: Mapping[str, Mapping[str, Any]], state: str = "") -> Mapping[str, Any]:
    """The answers to these requests; asks for them where one is missing or no acceptance."""
    answers: Mapping[str, Any] = invocation.dialogue.answers
    for key in requests:
        answer = answers.get(key)
        if not isinstance(answer, Mapping) or ("action" in answer and not isinstance(answer.get("content"), Mapping)):
            raise InputRequired("The fixture needs an answer.", requests, state)
    return answers


def _asks(requests: Mapping[str, Mapping[str, Any]], state: str = "") -> Run:
    async def run(invocation: Invocation) -> Structured:
        answers = _answered(invocation, requests, state)
        if invocation.dialogue.state != state:
            raise FailedPrecondition("The state is not the one that was given.")
        return {"text": f"state-ok {json.dumps(answers)}"}

    return run


DEFAULTS = _elicit(
    "Please review your data.",
    name={"type": "string", "default": "John Doe"},
    age={"type": "integer", "default": 30},
    score={"type": "number", "default": 95.5},
    status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    verified={"type": "boolean", "default": True},
)

OPTIONS = ["option1", "option2", "option3"]
TITLED = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
ENUMS = _elicit(
    "Please choose.",
    untitledSingle={"type": "string", "enum": OPTIONS},
    titledSingle={"type": "string", "oneOf": TITLED},
    legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
    untitledMulti={"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    titledMulti={"type": "array", "items": {"anyOf": TITLED}},
)


class Prompted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of the tool that has the client's model answer."""

    prompt: str


class Messaged(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of the tool that asks what it is told to."""

    message: str


async def _sampling(invocation: Invocation) -> Structured:
    answers = _answered(invocation, {"answer": _sample(str(invocation.arguments["prompt"]))})
    return {"text": f"LLM response: {json.dumps(answers['answer']['content'])}"}


async def _elicitation(invocation: Invocation) -> Structured:
    question = _elicit(str(invocation.arguments["message"]), username=TEXT, email=TEXT)
    answers = _answered(invocation, {"user": question})
    return {"text": f"User response: {json.dumps(answers['user'])}"}


async def _multi_round(invocation: Invocation) -> Structured:
    state = invocation.dialogue.state
    if not state:
        raise InputRequired("Round 1.", {"step1": _elicit("Step 1: What is your name?", name=TEXT)}, "round-1")
    if state == "round-1":
        answers = _answered(invocation, {"step1": NAME}, state)
        next_state = json.dumps(answers["step1"]["content"])
        raise InputRequired("Round 2.", {"step2": _elicit("Step 2: Which colour?", color=TEXT)}, next_state)
    answers = _answered(invocation, {"step2": NAME}, state)
    return {"text": f"{state} {json.dumps(answers['step2']['content'])}"}


async def _what_the_client_can(invocation: Invocation) -> Structured:
    offered = {"elicitation": ("name", NAME), "sampling": ("question", _sample("What is the capital of France?"))}
    asked = dict(pair for capability, pair in offered.items() if capability in invocation.dialogue.can)
    return {"text": json.dumps(_answered(invocation, asked))}


async def _progress(invocation: Invocation) -> Structured:
    for done in (0, 50, 100):
        await invocation.progress(done, 100, f"step {done} of 100")
        await asyncio.sleep(0.02)
    return {"text": "done"}


async def _fails(invocation: Invocation) -> Structured:
    raise FailedPrecondition("This tool intentionally returns an error for testing.")


class Region(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of the tool whose headers are checked against the body."""

    region: str
    priority: int = 0
    verbose: bool = False


async def _region(invocation: Invocation) -> Structured:
    return {"text": str(invocation.arguments["region"])}


HEADED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "priority": {"type": "integer", "x-mcp-header": "Priority"},
        "verbose": {"type": "boolean", "x-mcp-header": "Verbose"},
    },
    "required": ["region"],
    "additionalProperties": False,
}

SCHEMA_2020_12: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def _resource(uri: str, mime_type: str, text: str) -> Block:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


IMAGE: Block = {"type": "image", "data": PNG, "mimeType": "image/png"}
OK = _elicit("Please confirm", ok={"type": "boolean"})


class Uri(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of the tool behind the resources."""

    uri: str


async def _read(invocation: Invocation) -> Structured:
    uri = str(invocation.arguments["uri"])
    if uri == "test://static-text":
        return {"text": "This is the content of the static text resource."}
    if uri == "test://static-binary":
        return {"text": PNG}
    if uri == "test://watched-resource":
        return {"text": "This changes, or would."}
    if found := re.fullmatch(r"test://template/([^/]+)/data", uri):
        return {"text": json.dumps({"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"})}
    raise NotFound("There is no such fixture.")


TOOLS = (
    _tool("test_simple_text", _says("This is a simple text response for testing.")),
    _tool("test_image_content", _says("image"), blocks=[IMAGE]),
    _tool("test_audio_content", _says("audio"), blocks=[{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]),
    _tool(
        "test_embedded_resource",
        _says("resource"),
        blocks=[_resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")],
    ),
    _tool(
        "test_multiple_content_types",
        _says("several"),
        blocks=[
            {"type": "text", "text": "Multiple content types test:"},
            IMAGE,
            _resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ],
    ),
    _tool("test_error_handling", _fails),
    _tool("test_tool_with_progress", _progress, waits=True),
    # Progress is told as log messages to who asked for those.
    _tool("test_tool_with_logging", _progress, waits=True),
    _tool("test_logging_tool", _progress, waits=True),
    _tool("test_sampling", _sampling, arguments=Prompted),
    _tool("test_elicitation", _elicitation, arguments=Messaged),
    _tool("test_elicitation_sep1034_defaults", _asks({"review": DEFAULTS})),
    _tool("test_elicitation_sep1330_enums", _asks({"choice": ENUMS})),
    _tool("test_streaming_elicitation", _asks({"user_name": NAME})),
    _tool("test_missing_capability", _asks({"question": _sample("What is the capital of France?")})),
    _tool("test_input_required_result_elicitation", _asks({"user_name": NAME})),
    _tool("test_input_required_result_sampling", _asks({"capital_question": _sample("The capital of France?")})),
    _tool("test_input_required_result_list_roots", _asks({"client_roots": ROOTS})),
    _tool("test_input_required_result_request_state", _asks({"confirm": OK}, "kept")),
    _tool("test_input_required_result_tampered_state", _asks({"confirm": OK}, "kept")),
    _tool(
        "test_input_required_result_multiple_inputs",
        _asks({"user_name": NAME, "greeting": _sample("Generate a greeting"), "client_roots": ROOTS}, "kept"),
    ),
    _tool("test_input_required_result_multi_round", _multi_round),
    _tool("test_input_required_result_capabilities", _what_the_client_can),
    _tool("test_input_required_result_context", _asks({"user_context": _elicit("Which context?", context=TEXT)})),
    _tool("json_schema_2020_12_tool", _says("ok"), input_schema=SCHEMA_2020_12),
    _tool("test_header_tool", _region, arguments=Region, input_schema=HEADED),
    _tool("test_read_resource", _read, arguments=Uri),
)


def _call(uri: str) -> Mapping[str, Any] | None:
    return {"uri": uri} if uri.startswith("test://") else None


def _text(uri: str, answer: ToolAnswer) -> Sequence[Block]:
    kind = "application/json" if "/template/" in uri else "text/plain"
    key, kind = ("blob", "image/png") if uri.endswith("binary") else ("text", kind)
    return [{"uri": uri, "mimeType": kind, key: str(answer.structured["text"])}]


def _source(template: str, mime_type: str, listing: Listing | None = None) -> ResourceSource:
    def call(uri: str) -> Mapping[str, Any] | None:
        shape = re.sub(r"\\{[a-z]+\\}", "[^/]+", re.escape(template))
        return _call(uri) if re.fullmatch(shape, uri) else None

    return ResourceSource(
        template, template, template, "A fixture.", mime_type, "test_read_resource", call, _text, listing
    )


RESOURCES = (
    _source("test://static-text", "text/plain"),
    _source("test://static-binary", "image/png"),
    _source("test://watched-resource", "text/plain"),
    _source("test://template/{id}/data", "application/json"),
)


def _user(content: Block) -> Block:
    return {"role": "user", "content": content}


def _words(text: str) -> Block:
    return _user({"type": "text", "text": text})


def _prompt(
    name: str,
    messages: Callable[[Mapping[str, str]], Sequence[Block]],
    *arguments: str,
    tool: str = "",
) -> Prompt:
    return Prompt(
        name=name,
        title=name,
        description="A fixture of the conformance suite.",
        arguments=tuple(Argument(argument, "An argument.") for argument in arguments),
        messages=lambda given, answers: messages(given),
        tools=(tool,) if tool else (),
        calls=lambda given: [(tool, {})] if tool else [],
    )


PROMPTS = (
    _prompt("test_simple_prompt", lambda given: [_words("This is a simple prompt for testing.")]),
    _prompt(
        "test_prompt_with_arguments",
        lambda given: [_words(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")],
        "arg1",
        "arg2",
    ),
    _prompt(
        "test_prompt_with_embedded_resource",
        lambda given: [
            _user(_resource(given["resourceUri"], "text/plain", "Embedded resource content for testing.")),
            _words("Please process the embedded resource above."),
        ],
        "resourceUri",
    ),
    _prompt("test_prompt_with_image", lambda given: [_user(IMAGE), _words("Please analyze the image above.")]),
    _prompt(
        "test_input_required_result_prompt",
        lambda given: [_words("With a context.")],
        tool="test_input_required_result_context",
    ),
)


def with_fixtures(tools: Mapping[str, Tool]) -> Pack:
    """The product's pack and the fixtures beside it."""
    pack = product(tools)
    fixtures = {tool.name: tool for tool in TOOLS}
    return Pack(
        tools=dict(sorted({**pack.tools, **fixtures}.items())),
        prompts={**pack.prompts, **{prompt.name: prompt for prompt in PROMPTS}},
        resources=(*RESOURCES, *pack.resources),
        subscribable=True,
    )

"""ConfigMaps and Secrets: what there is, and of a Secret its names, unless policy allows to reveal it (R26)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta as Constraint

from services.mcp_core.ports import ObjectRef, Page, Resource
from services.mcp_core.redaction import MARK, redact
from services.mcp_core.redaction_objects import redact_named
from services.mcp_core.tools.base import (
    Arguments,
    Invocation,
    ListArguments,
    Namespace,
    Need,
    ObjectName,
    Permission,
    Structured,
    Tool,
    fenced_json,
    name_argument,
)
from services.mcp_core.tools.listing import Listing, Meta, collect, list_objects, listed

CONFIG_MAPS = Resource("", "v1", "configmaps")
SECRETS = Resource("", "v1", "secrets")
REVEAL = Permission("reveal", "kubegate", "secrets")


class ConfigMap(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a ConfigMap. Values are passed over undecoded."""

    metadata: Meta
    data: dict[str, msgspec.Raw] | None = None
    binary_data: dict[str, msgspec.Raw] | None = None
    immutable: bool = False


class ConfigMapSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A ConfigMap in an answer: its keys, and the bytes of its values together."""

    name: str = ""
    namespace: str = ""
    keys: list[str] = []
    bytes: int = 0
    immutable: bool = False
    created: str = ""


class ConfigMapList(Listing, frozen=True, kw_only=True):
    """Answer of list_configmaps."""

    configmaps: list[ConfigMapSummary]


class SecretSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A Secret in an answer: nothing of its data, which has not left the cluster. `entries`: how many keys."""

    name: str = ""
    namespace: str = ""
    type: str = ""
    entries: int = 0
    age: str = ""


class SecretList(Listing, frozen=True, kw_only=True):
    """Answer of list_secrets."""

    secrets: list[SecretSummary]


class SecretArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of get_secret."""

    name: ObjectName
    namespace: Namespace
    reveal: Annotated[
        bool, Constraint(description=f"Show the values too. Needs the permission {REVEAL} and is recorded.")
    ] = False


class SecretMeta(Meta, frozen=True, rename="camel"):
    """What is read of a Secret's metadata; annotations may hold its data, so they are not."""

    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Secret(msgspec.Struct, frozen=True):
    """What is read of a Secret."""

    metadata: SecretMeta
    type: str = ""
    data: dict[str, str] | None = None
    immutable: bool = False

    def __repr__(self) -> str:
        return "Secret(…)"


class SecretDetail(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of get_secret. data: key to "[redacted]", or to the text where `revealed` (base64 if it is no text)."""

    name: str
    namespace: str
    type: str
    data: dict[str, str]
    bytes: dict[str, int]
    revealed: bool
    labels: dict[str, str]
    immutable: bool
    created: str


def summarize(found: ConfigMap) -> ConfigMapSummary:
    """A ConfigMap as an answer shows it."""
    every: Mapping[str, msgspec.Raw] = {**(found.data or {}), **(found.binary_data or {})}
    return ConfigMapSummary(
        name=found.metadata.name,
        namespace=found.metadata.namespace,
        keys=[redact(key) for key in sorted(every)],
        bytes=sum(max(len(value) - 2, 0) for value in map(bytes, every.values())),
        immutable=found.immutable,
        created=found.metadata.creation_timestamp,
    )


async def _list_configmaps(invocation: Invocation) -> Structured:
    found = await list_objects(invocation, CONFIG_MAPS, ConfigMap, summarize)
    return listed("configmaps", found, invocation.arguments, ConfigMapSummary)


async def _list_secrets(invocation: Invocation) -> Structured:
    async def ask(namespace: str, limit: int, after: str) -> Page[SecretSummary]:
        columns, page = await invocation.cluster.table(
            ObjectRef(SECRETS, namespace),
            label_selector=invocation.arguments["label_selector"],
            field_selector=invocation.arguments["field_selector"],
            limit=limit,
            after=after,
        )
        places = {name.lower(): index for index, name in enumerate(columns.names)}

        def cell(cells: tuple[Any, ...], name: str) -> Any:
            index = places.get(name, len(cells))
            return cells[index] if index < len(cells) else ""

        items = [
            SecretSummary(
                row.name,
                row.namespace,
                str(cell(row.cells, "type")),
                entries if isinstance(entries := cell(row.cells, "data"), int) else 0,
                str(cell(row.cells, "age")),
            )
            for row in page.items
        ]
        return Page(items, page.truncated, page.after, page.remaining)

    return listed("secrets", await collect(invocation, ask), invocation.arguments, SecretSummary)


async def _get_secret(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    secret = await invocation.cluster.get(ObjectRef(SECRETS, namespace, invocation.arguments["name"]), Secret)
    # Both: the caller must have asked for it, and authz must have allowed it.
    revealed = bool(invocation.arguments["reveal"]) and invocation.may(REVEAL)
    data = secret.data or {}
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        SecretDetail(
            name=secret.metadata.name,
            namespace=secret.metadata.namespace,
            type=secret.type,
            data={key: _text(value) if revealed else MARK for key, value in data.items()},
            bytes={key: len(value) * 3 // 4 - value.count("=") for key, value in data.items()},
            revealed=revealed,
            labels={key: redact_named(key, value) for key, value in secret.metadata.labels.items()},
            immutable=secret.immutable,
            created=secret.metadata.creation_timestamp,
        )
    )


def _text(value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, ValueError):
        return value


def _reveal_needs(arguments: Arguments) -> tuple[Need, ...]:
    return (Need(REVEAL),) if arguments["reveal"] else ()


TOOLS = (
    Tool(
        name="list_configmaps",
        title="List ConfigMaps",
        description="ConfigMaps with their keys and size. get_resource shows one. "
        "Give `namespace`, or `all_namespaces: true`.",
        arguments=ListArguments,
        result=ConfigMapList,
        permission=Permission("list", "", "configmaps"),
        run=_list_configmaps,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
    Tool(
        name="list_secrets",
        title="List Secrets",
        description="Secrets with type and number of entries; nothing of their data. "
        "Give `namespace`, or `all_namespaces: true`.",
        arguments=ListArguments,
        result=SecretList,
        permission=Permission("list", "", "secrets"),
        run=_list_secrets,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
    Tool(
        name="get_secret",
        title="Look at a Secret",
        description="One Secret: its keys and their sizes. The values are removed unless `reveal` is allowed.",
        arguments=SecretArguments,
        result=SecretDetail,
        permission=Permission("list", "", "secrets"),
        needs=_reveal_needs,
        run=_get_secret,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        text=fenced_json,
    ),
)

"""The decisions of the audit service on what is recorded, and as whose. Reading is decided in ``reading``."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from services.audit import canonical
from services.audit.event import IDENTITY_FIELDS, Event, Identity, Phase
from services.audit.masking import Masker
from services.audit.ports import Ack, Draft, Log, Principals
from services.audit.writers import check_party, check_type
from services.common.errors import (
    DomainError,
    FailedPrecondition,
    Unauthenticated,
)

Item = tuple[Event, str]
"""An event and the principal token beside it, or no token."""


class AuditService:
    """Takes events from their writers."""

    def __init__(self, log: Log, principals: Principals, masker: Masker) -> None:
        self._log = log
        self._principals = principals
        self._masker = masker

    async def append(self, writer: str, event: Event, token: str) -> Ack:
        """Records one event; returns when it is durable and in the tree.

        Raises:
            InvalidArgument: the event breaks its bounds or shape.
            PermissionDenied: the writer may not write this type (R22).
            Unauthenticated: a token was given and is not valid, or not the writer's to show (R5).
            FailedPrecondition: an outcome whose intent this writer never recorded.
            AlreadyExists: the writer used this event_id for another event.
            ResourceExhausted, Unavailable: it is not recorded, or not known to be.
        """
        (answer,) = await self._append((writer, [(event, token)]))
        if isinstance(answer, DomainError):
            raise answer
        return answer

    def append_all(
        self, writer: str, items: Sequence[Item]
    ) -> Sequence[tuple[Sequence[int], Awaitable[Sequence[Ack | DomainError]]]]:
        """Records events that came together: indices of items, and what will answer them in that order.

        Those that wait for the same thing are one group, so that none waits for another's token or intent
        (R8), and a group is one commit. Answers are those of ``append``.
        """
        groups: dict[tuple[str, str], list[int]] = {}
        for index, (event, token) in enumerate(items):
            key = ("intent", event.intent_id) if event.phase is Phase.OUTCOME else ("token", token)
            groups.setdefault(key, []).append(index)
        return [(indices, self._append((writer, [items[index] for index in indices]))) for indices in groups.values()]

    async def _append(self, group: tuple[str, Sequence[Item]]) -> Sequence[Ack | DomainError]:
        """Items with the same token, or outcomes of the same intent."""
        writer, items = group
        answers: list[Ack | DomainError | None] = [None] * len(items)
        drafts: list[tuple[int, Draft]] = []
        identity: Mapping[str, Any] | DomainError | None = None
        for index, (event, token) in enumerate(items):
            try:
                event.check()
                check_type(writer, event)
                fields = self._masker.mask(event.fields(writer))
                if event.phase is Phase.OUTCOME:
                    fields = as_identity(await self._identity_of_intent(writer, event), fields)
                elif token:
                    if identity is None:
                        identity = await self._identity(writer, token)
                    if isinstance(identity, DomainError):
                        answers[index] = await self._recorded(writer, event, fields, identity)
                        continue
                    fields = as_identity(identity, fields)
                drafts.append((index, Draft(fields, reserved=event.is_intent_or_outcome)))
            except DomainError as error:
                answers[index] = error
        stored = await self._log.append_all([draft for _, draft in drafts]) if drafts else ()
        for (index, _), answer in zip(drafts, stored, strict=True):
            answers[index] = answer
        return [answer for answer in answers if answer is not None]

    async def _identity(self, writer: str, token: str) -> Mapping[str, Any] | DomainError:
        try:
            identity: Identity = await self._principals.verify(token)
            check_party(writer, identity)
        except DomainError as error:
            return error
        return identity.fields()

    async def _identity_of_intent(self, writer: str, event: Event) -> dict[str, Any]:
        """R5: an outcome belongs to whom its intent belongs to, however long it took."""
        record = await self._log.find(writer, event.intent_id)
        intent = canonical.decode(record.canonical_json) if record else {}
        if intent.get("phase") != Phase.INTENT or intent["event_type"] != event.event_type:
            raise FailedPrecondition(f"{writer} has recorded no intent {event.intent_id} of this type.")
        return {key: value for key, value in intent.items() if key in IDENTITY_FIELDS}

    async def _recorded(
        self, writer: str, event: Event, fields: dict[str, Any], error: DomainError
    ) -> Ack | DomainError:
        """Sent again after its token's end: the record that it made then still stands (R8). Else the error."""
        if not isinstance(error, Unauthenticated):
            return error
        record = await self._log.find(writer, event.event_id)
        if record is None:
            return error
        stored = canonical.decode(record.canonical_json)
        ignored = IDENTITY_FIELDS | {"sequence"}
        same = _without(stored, ignored) == _without(fields, ignored)
        return Ack(event.event_id, record.sequence) if same else error


def as_identity(identity: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record with somebody's identity in place of what its writer asserted (R3 for the tenant)."""
    record = {**fields, **identity}
    if "tenant" in fields and "tenant" not in identity:
        del record["tenant"]
    return record


def _without(fields: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}

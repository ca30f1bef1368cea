"""Administration of the policy (R15): read it, check one, take the changed file, go back, compare, explain."""

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from services.authz.admission import Admission
from services.authz.in_force import InForce
from services.authz.policy.diff import Change, diff
from services.authz.policy.document import InvalidPolicy, Problem
from services.authz.policy.explain import Explanation
from services.authz.policy.model import Action, Policy, Principal
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.ports import Act, Adopted, Caller, Store
from services.authz.service import AuthzService
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

T = TypeVar("T")

MAX_CHANGES = 10_000
MAX_PRINCIPALS = 1_000

_AREA = "policy"


class File(Protocol):
    """The policy file."""

    def now(self) -> bytes | Problem:
        """Its bytes, or why it cannot be read."""
        ...

    def replace(self, expected: bytes, content: bytes) -> None:
        """Puts other bytes in its place, all or none.

        Raises:
            FailedPrecondition: it holds something else than ``expected``, or cannot be written; says what to do.
        """
        ...


@dataclass(frozen=True, slots=True)
class Current:
    """The policy in force, since when, and why the file that lies there is not."""

    revision: str
    content: bytes
    adopted_at: datetime
    rejected: tuple[Problem, ...]


class PolicyAdmin:
    """Every method needs ``kubegate:policy:<verb>``. Raises Unauthenticated and PermissionDenied for that, and
    Unavailable where it could not be recorded."""

    def __init__(
        self, admission: Admission, service: AuthzService, in_force: InForce, store: Store, file: File
    ) -> None:
        self._admission = admission
        self._service = service
        self._in_force = in_force
        self._store = store
        self._read = file.now
        self._write = file.replace

    async def get(self, caller: Caller, token: str) -> Current:
        """The policy in force."""
        act = await self._admission.admit(caller, token, _AREA, "read")
        await self._admission.done(act)
        now = self._in_force
        return Current(now.revision, now.content, now.adopted_at, now.rejected)

    async def validate(self, caller: Caller, token: str, content: bytes) -> tuple[tuple[Problem, ...], str]:
        """Everything that is wrong with a policy, and the revision that it would have."""
        act = await self._admission.admit(caller, token, _AREA, "read")
        _, problems = await _parsed(content)
        await self._admission.done(act, validated=revision_of(content), problems=str(len(problems)))
        return problems, revision_of(content)

    async def reload(self, caller: Caller, token: str) -> tuple[str, str, tuple[Problem, ...]]:
        """Takes the file as it lies there now: the revision in force, the one before, and what is wrong."""
        act = await self._admission.admit(caller, token, _AREA, "reload")
        before = self._in_force.revision

        async def apply() -> None:
            content = self._read()
            if isinstance(content, Problem):
                self._in_force.keep([content])
            else:
                await self._in_force.reload(content, act.principal.user)

        await self._admission.change(act, apply)
        return self._in_force.revision, before, self._in_force.rejected

    async def history(self, caller: Caller, token: str) -> list[Adopted]:
        """The policies that were in force, as far back as they are kept, newest first."""
        act = await self._admission.admit(caller, token, _AREA, "read")
        found = await self._store.policies()
        await self._admission.done(act, listed=str(len(found)))
        return found

    async def earlier(self, caller: Caller, token: str, number: int) -> tuple[Adopted, bytes]:
        """One of them. Raises NotFound where it is not kept."""
        act = await self._admission.admit(caller, token, _AREA, "read")
        found = await self._refusing(act, self._kept(number))
        await self._admission.done(act, number=str(number), earlier=found[0].revision)
        return found

    async def rollback(self, caller: Caller, token: str, number: int) -> tuple[Adopted, str]:
        """Puts an earlier policy in force again, under a new number, and into the file: what is in force then, and the
        revision before.

        Raises:
            NotFound: it is not kept.
            FailedPrecondition: it is in force, this version does not take it, or the file cannot be written; says what
                to do instead. Nothing was changed.
        """
        act = await self._admission.admit(caller, token, _AREA, "rollback")
        kept, content = await self._refusing(act, self._kept(number))
        before = self._in_force.revision
        if kept.revision == before:
            error = FailedPrecondition(f"The policy of number {number} is the one in force.")
            await self._admission.refused(act, error)
            raise error
        policy = Adopted(kept.revision, act.principal.user, f"rollback to {number}")

        async def apply() -> None:
            try:
                await self._in_force.rollback(policy, content, self._write)
            except InvalidPolicy as error:
                first = error.problems[0].at("policy")
                raise FailedPrecondition(
                    f"The policy of number {number} is none for this version of kubegate: {first}. Correct a copy "
                    f"(`kubegate policy history --show {number}`) and put it in the place of the file."
                ) from None

        await self._admission.change(act, apply, metadata={"number": str(number), "to": kept.revision, "from": before})
        newest = (await self._store.policies())[0]
        return newest, before

    async def _kept(self, number: int) -> tuple[Adopted, bytes]:
        content = await self._store.policy(number)
        found = [policy for policy in await self._store.policies() if policy.number == number]
        if content is None or not found:
            raise NotFound(f"No policy of number {number} is kept; `kubegate policy history` lists those that are.")
        if revision_of(content) != found[0].revision:
            raise FailedPrecondition(f"The policy of number {number} is damaged in the store; take another one.")
        return found[0], content

    async def _refusing(self, act: Act, question: Awaitable[T]) -> T:
        """The answer; a refusal is recorded."""
        try:
            return await question
        except (NotFound, FailedPrecondition) as error:
            await self._admission.refused(act, error)
            raise

    async def diff(
        self, caller: Caller, token: str, candidate: bytes, principals: Sequence[Principal]
    ) -> tuple[tuple[Problem, ...], list[Change]]:
        """What a candidate would change."""
        act = await self._admission.admit(caller, token, _AREA, "diff")
        if len(principals) > MAX_PRINCIPALS:
            error = InvalidArgument(f"DiffPolicy takes at most {MAX_PRINCIPALS} principals.")
            await self._admission.refused(act, error)
            raise error
        policy, problems = await _parsed(candidate)
        changes: list[Change] = []
        if policy is not None:
            found = diff(self._in_force.engine.policy, policy, principals)
            changes = await asyncio.to_thread(lambda: list(itertools.islice(found, MAX_CHANGES)))
        await self._admission.done(act, candidate=revision_of(candidate), changes=str(len(changes)))
        return problems, changes

    async def explain(
        self, caller: Caller, token: str, principal: Principal, action: Action
    ) -> tuple[Explanation, str]:
        """What would be decided about anybody; for whoever is of a tenant, about its own tenant's only (R13)."""
        act = await self._admission.admit(caller, token, _AREA, "explain")
        if act.principal.tenant and principal.tenant != act.principal.tenant:
            error = PermissionDenied("Only principals of your own tenant are explained to you.")
            await self._admission.refused(act, error)
            raise error
        await self._admission.done(act, about=f"{principal.issuer}:{principal.subject}")
        return self._service.explain_principal(caller, principal, action)


async def _parsed(content: bytes) -> tuple[Policy | None, tuple[Problem, ...]]:
    """The policy, or everything that is wrong with it. In a thread, so that a large one does not hold up decisions."""
    try:
        return await asyncio.to_thread(parse_policy, content), ()
    except InvalidPolicy as error:
        return None, error.problems

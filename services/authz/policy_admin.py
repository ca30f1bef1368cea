"""Administration of the policy (R15): read it, check one, take the changed file, compare, explain."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.authz.admission import Admission
from services.authz.in_force import InForce
from services.authz.policy.diff import Change, diff
from services.authz.policy.document import InvalidPolicy, Problem
from services.authz.policy.explain import Explanation
from services.authz.policy.model import Action, Policy, Principal
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.ports import Caller
from services.authz.service import AuthzService
from services.common.errors import InvalidArgument, PermissionDenied

MAX_CHANGES = 10_000
MAX_PRINCIPALS = 1_000

_AREA = "policy"


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
        self, admission: Admission, service: AuthzService, in_force: InForce, read: Callable[[], bytes | Problem]
    ) -> None:
        self._admission = admission
        self._service = service
        self._in_force = in_force
        self._read = read

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
                await self._in_force.reload(content)

        await self._admission.change(act, apply)
        return self._in_force.revision, before, self._in_force.rejected

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

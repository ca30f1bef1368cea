"""What is in force: one policy and the elevations, replaced whole between two decisions, never in part."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.authz.policy.document import InvalidPolicy, Problem
from services.authz.policy.engine import Engine
from services.authz.policy.model import Policy
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.policy.whole import cut_off
from services.authz.ports import Adopted, Recorder, Store
from services.common.clock import Clock
from services.common.errors import Unavailable
from services.common.log import Outage, get_logger

RETRY = 1.0
"""Seconds until a change that the store did not take is tried again."""

log = get_logger("authz")


class InForce:
    """Holds the engine. ``lease_revision`` is the store's revision that the engine knows (R12)."""

    def __init__(self, policy: Policy, content: bytes, store: Store, recorder: Recorder, clock: Clock) -> None:
        self.engine = Engine(policy)
        self.content = content
        self.adopted_at = clock.now()
        self.lease_revision = 0
        self.rejected: tuple[Problem, ...] = ()
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._changing = asyncio.Lock()

    @property
    def revision(self) -> str:
        """Digest of the policy in force."""
        return self.engine.policy.revision

    async def start(self) -> None:
        """Puts the first policy and the stored elevations in force."""
        async with self._changing:
            await self._store.adopted(Adopted(self.revision, how="start"), self.content)
            await self._refresh(self.engine)
            self._recorder.policy_adopted(self.revision, "")

    async def reload(self, content: bytes, by: str = "") -> None:
        """Puts a changed policy file in force, or keeps the policy that is when the new one is unusable. ``by``:
        who asked for it; nobody where the file was followed."""
        async with self._changing:
            if revision_of(content) == self.revision:
                self.content, self.rejected = content, ()
                return
            try:
                # In a thread, so that a large file does not hold up decisions.
                engine = await asyncio.to_thread(lambda: Engine(parse_policy(content)))
            except InvalidPolicy as error:
                self.keep(error.problems)
                return
            if problem := cut_off(self.content, content):
                self.keep([problem])
                return
            await self._adopt(engine, content, Adopted(engine.revision, by, "reload" if by else "file"))

    async def rollback(self, policy: Adopted, content: bytes, write: Callable[[bytes, bytes], object]) -> None:
        """Puts an earlier policy in force again, and into the file first: else a restart, or the next look at the file,
        would take it back. ``write``: the policy that is in force, and the one to put in its place.

        Raises:
            InvalidPolicy: this version of kubegate does not take it.
            Unavailable: the file says it, and it is put in force as soon as the store can.
            DomainError: as ``write``; nothing was changed.
        """
        async with self._changing:
            engine = await asyncio.to_thread(lambda: Engine(parse_policy(content)))
            await asyncio.to_thread(write, self.content, content)
            try:
                await self._adopt(engine, content, policy)
            except Unavailable:
                raise Unavailable(
                    "The policy file says the earlier policy now, but the authorization store did not take it. It is "
                    "put in force as soon as the store does; until then what was in force decides."
                ) from None

    async def _adopt(self, engine: Engine, content: bytes, policy: Adopted) -> None:
        previous = self.revision
        await self._store.adopted(policy, content)
        await self._refresh(engine)
        self.content, self.adopted_at, self.rejected = content, self._clock.now(), ()
        log.info("policy adopted", revision=self.revision, previous=previous, how=policy.how)
        self._recorder.policy_adopted(self.revision, previous)

    async def follow(
        self,
        changes: AsyncIterator[bytes | Problem],
        now: Callable[[], bytes | Problem],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Takes each change of the policy file, or why it cannot be read. Where the store fails, the policy in force
        stays until it does not, and what the file is by then (``now``) is taken."""
        outage = Outage(log, "changed policy not adopted yet", "changed policy adopted", level=logging.ERROR)
        async for change in changes:
            while True:
                if isinstance(change, Problem):
                    self.keep([change])
                    break
                try:
                    await self.reload(change)
                    outage.worked()
                    break
                except Unavailable as error:
                    outage.failed(reason=error.public_message)
                    await sleep(RETRY)
                    change = now()

    def keep(self, problems: Sequence[Problem]) -> None:
        """Reports that the changed policy file is unusable; the policy in force stays."""
        lines = [problem.at("policy") for problem in problems]
        log.error("changed policy is unusable, the last good one stays", problems=lines)
        self.rejected = tuple(problems)
        self._recorder.policy_rejected(self.revision, lines)

    async def refresh(self) -> None:
        """Puts the stored elevations in force, after they changed."""
        async with self._changing:
            await self._refresh(self.engine)

    async def newest(self) -> int:
        """The store's revision by a read begun now, known to the engine when this returns (R12)."""
        revision = await self._store.revision()
        if revision > self.lease_revision:
            await self.refresh()
        return revision

    def notices(self) -> list[str]:
        """What an operator should know although decisions go on: why the policy file is not in force."""
        if not self.rejected:
            return []
        first = self.rejected[0].at("policy")
        more = f" and {len(self.rejected) - 1} more" if len(self.rejected) > 1 else ""
        stays = f"revision {self.revision} stays in force"
        return [f"the policy file is unusable, {stays}: {first}{more}; `kubegate policy validate FILE` says all"]

    async def _refresh(self, engine: Engine) -> None:
        revision, elevations = await self._store.active(self._clock.now().timestamp())
        # Both at once: no decision sees one without the other.
        self.engine, self.lease_revision = engine.with_elevations(elevations, engine.policy.revision), revision

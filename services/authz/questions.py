"""Questions that a person answers while a call is held open at one replica of the core, and answered at another (R16).

Nothing is stored: a question that is lost is not answered, and what is not answered is not done.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from services.authz.ports import Caller
from services.authz.service import AuthzService
from services.common.clock import Clock
from services.common.errors import InvalidArgument, NotFound, ResourceExhausted

LIVES = 120.0
"""Seconds after which a question is forgotten."""

MOST = 10_000
MOST_OF_ONE = 16
"""Open questions, of everybody and of one person."""

LONGEST = 8192
"""Bytes of an answer. With the numbers above, what waits here stays within 80 MiB."""

Person = tuple[str, str]

Answer = tuple[bool, bytes]
"""Whether it was a yes, and what came with it, which only the core understands."""

NONE: Answer = (False, b"")


@dataclass(slots=True)
class _Question:
    person: Person
    ends: float
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer = NONE


class Questions:
    """Of one authz, which all replicas of the core ask. A question is its person's only (R1)."""

    def __init__(self, service: AuthzService, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._open: dict[str, _Question] = {}

    async def ask(self, caller: Caller, token: str) -> str:
        """Opens a question to the token's person; returns its id, which nobody can guess.

        Raises:
            Unauthenticated: the token is not valid, or was issued to another peer; recorded.
            ResourceExhausted: too many are open.
        """
        person = await self._person(caller, token)
        now = self._clock.monotonic()
        self._open = {key: each for key, each in self._open.items() if each.ends > now}
        of_one = sum(each.person == person for each in self._open.values())
        if len(self._open) >= MOST or of_one >= MOST_OF_ONE:
            raise ResourceExhausted("Too many questions are open; answer them first.", retry_after=5.0)
        key = secrets.token_urlsafe(24)
        self._open[key] = _Question(person, now + LIVES)
        return key

    async def answer(self, caller: Caller, token: str, key: str, *, accepted: bool, content: bytes) -> None:
        """Answers a question; the first answer counts.

        Raises:
            InvalidArgument: the content is too long. NotFound: no such question is open to this person. Otherwise
                as ``ask``.
        """
        if len(content) > LONGEST:
            raise InvalidArgument(f"An answer has {LONGEST} bytes at most.")
        question = self._find(await self._person(caller, token), key)
        if not question.answered.is_set():
            question.answer = (accepted, content)
            question.answered.set()

    async def wait(self, caller: Caller, token: str, key: str, seconds: float) -> Answer:
        """What the person said within that time. Closes the question.

        Raises: as ``answer``.
        """
        question = self._find(await self._person(caller, token), key)
        try:
            async with asyncio.timeout(seconds):
                await question.answered.wait()
        except TimeoutError:
            return NONE
        finally:
            self._open.pop(key, None)
        return question.answer

    def _find(self, person: Person, key: str) -> _Question:
        question = self._open.get(key)
        if question is None or question.person != person or question.ends <= self._clock.monotonic():
            raise NotFound("No such question is open.")
        return question

    async def _person(self, caller: Caller, token: str) -> Person:
        principal = (await self._service.identify(caller, token, ())).principal
        return principal.issuer, principal.subject

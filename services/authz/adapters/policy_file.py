"""The policy file on disk: read once to start, then followed; replaced when an operator goes back to an earlier one."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import watchfiles

from services.authz.policy.document import MAX_BYTES, InvalidPolicy, Problem
from services.authz.policy.model import Policy
from services.authz.policy.parse import parse_policy
from services.common.errors import FailedPrecondition
from services.common.runtime_errors import StartupError

RECHECK = 2_000
"""Milliseconds after which the file is looked at even if the system reported nothing."""


SETTLE = 1.0
"""Seconds for which a file must not have changed: one that is written in place is a part of itself meanwhile. Also one
that was put there by rename, for nothing tells the two apart with certainty."""


class Unreadable(Exception):
    """The file cannot be read; the message says why."""

    @property
    def problem(self) -> Problem:
        """The same as a problem of the policy."""
        return Problem(1, 1, str(self))


class PolicyFile:
    """One path. Its directory is watched, so that an atomic rename or a swapped symlink is seen."""

    def __init__(self, path: Path, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._path = path
        self._sleep = sleep

    def read(self) -> bytes:
        """The file's bytes, one more than allowed at most.

        Raises:
            Unreadable: it cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"{self._path}: cannot be read: {error.strerror}") from error

    def now(self) -> bytes | Problem:
        """The file's bytes, or why it cannot be read."""
        try:
            return self.read()
        except Unreadable as error:
            return error.problem

    def replace(self, expected: bytes, content: bytes) -> None:
        """Puts other bytes in the file's place by rename, so that no reader sees a part of them.

        Raises:
            FailedPrecondition: it is a link, holds something else than ``expected``, or cannot be written.
        """
        if self._path.is_symlink():
            raise FailedPrecondition(
                f"{self._path} is a link, as into a ConfigMap; change it where it comes from: `kubegate policy history "
                "--show NUMBER` prints what to put there. Nothing was changed."
            )
        if self.now() not in (expected, content) and self._path.exists():
            raise FailedPrecondition(
                f"{self._path} holds a change that is not in force and would be lost: move it away to keep it, or "
                "`kubegate policy reload`, and go back then. Nothing was changed."
            )
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        try:
            was = self._path.stat() if self._path.exists() else None
            mode = was.st_mode & 0o777 if was is not None else 0o600
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                if was is not None:
                    with suppress(PermissionError):
                        os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise FailedPrecondition(
                f"{self._path} cannot be written here ({error.strerror}), and a policy that it does not say would not "
                "last: change it where it comes from; `kubegate policy history --show NUMBER` prints what to put there."
            ) from error

    def load(self) -> tuple[Policy, bytes]:
        """The policy to start with, and the bytes that say it.

        Raises:
            StartupError: it cannot be read or is invalid; lists every problem.
        """
        try:
            content = self.read()
            return parse_policy(content), content
        except (Unreadable, InvalidPolicy) as error:
            problems = [p.at(str(self._path)) for p in error.problems] if isinstance(error, InvalidPolicy) else [error]
            advice = f"correct it, check it with `kubegate policy validate {self._path}`, and start again"
            raise StartupError("\n".join([*map(str, problems), advice])) from error

    async def changes(self) -> AsyncIterator[bytes | Problem]:
        """Yields the file's bytes, or why it cannot be read: first as it is, then whenever that has changed, once it
        has been the same for ``SETTLE``."""
        last = await self._settled()
        yield last
        async for _ in watchfiles.awatch(
            self._path.parent,
            recursive=False,
            debounce=100,
            step=20,
            rust_timeout=RECHECK,
            yield_on_timeout=True,
        ):
            if self.now() == last:
                continue
            now = await self._settled()
            if now != last:
                last = now
                yield now

    async def _settled(self) -> bytes | Problem:
        seen = self.now()
        while True:
            await self._sleep(SETTLE)
            again = self.now()
            if again == seen:
                return again
            seen = again

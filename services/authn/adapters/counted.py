"""Counts attempts to authenticate where they are recorded, so that the number and the record agree."""

from services.authn.entry import Entry, Kind, Result
from services.authn.ports import Recorder
from services.common.deadline import Deadline
from services.common.errors import DomainError, Unauthenticated
from services.common.telemetry.bounded import Closed
from services.common.telemetry.metrics import AUTHENTICATION_ATTEMPTS

AUTH_TYPES = ("api_key", "certificate", "jwt", "password", "refresh_token", "unknown")
RESULTS = ("success", "failure", "error")


_auth_type = Closed(AUTH_TYPES)


class CountedRecorder:
    """A Recorder before another one."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        for auth_type in AUTH_TYPES:
            for result in RESULTS:
                # Series begin at zero, so that the first failure is a rise.
                AUTHENTICATION_ATTEMPTS.labels(auth_type, result)

    async def append(self, entry: Entry, deadline: Deadline, token: str = "") -> str:
        try:
            event_id = await self._recorder.append(entry, deadline, token)
        except Unauthenticated:
            # The credential ended meanwhile: that is recorded, and counted, as a failure of its own.
            raise
        except DomainError:
            self._count(entry, "error")
            raise
        self._count(entry, entry.result.value)
        return event_id

    async def append_folded(self, key: tuple[str, ...], entry: Entry, deadline: Deadline) -> None:
        # Each of those that are folded into one event counts.
        self._count(entry, entry.result.value)
        await self._recorder.append_folded(key, entry, deadline)

    def _count(self, entry: Entry, result: str) -> None:
        if entry.kind is Kind.AUTHENTICATION and entry.result is not Result.UNKNOWN:
            auth_type = _auth_type(entry.metadata.get("auth_type", ""))
            AUTHENTICATION_ATTEMPTS.labels(auth_type, result).inc()

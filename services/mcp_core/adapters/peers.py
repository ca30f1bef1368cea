"""What the adapters of authn and authz share: protobuf forms of our values, and what a peer's error means here."""

from __future__ import annotations

from kubegate.common.v1 import identity_pb2
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.log import get_logger
from services.mcp_core.model import Source

PEER_SECONDS = 5.0
"""How long authn or authz may take for one answer before they count as away."""

log = get_logger("peers")


def question_deadline(deadline: Deadline) -> Deadline:
    """The deadline of a question to a peer: that of the request, but not longer than ``PEER_SECONDS``."""
    return Deadline(min(deadline.at, Deadline.after(PEER_SECONDS).at))


def source(value: Source) -> identity_pb2.Source:
    return identity_pb2.Source(address=value.address, user_agent=value.user_agent)


def away_or_refused(peer: str, error: DomainError) -> DomainError:
    """The error for the client. A peer that is late is away; a peer that refuses *us* is a fault of ours."""
    if isinstance(error, Unauthenticated | ResourceExhausted):
        return error
    if isinstance(error, Unavailable):
        return Unavailable(error.public_message, retry_after=error.retry_after or 1.0)
    if isinstance(error, DeadlineExceeded):
        return Unavailable(f"The {peer} service did not answer in time; nothing was done. Try again shortly.")
    log.error("peer refused the core", peer=peer, code=error.code.name, reason=error.public_message)
    return Internal()

"""Asks a peer by gRPC health checking whether it is ready, and why not."""

from __future__ import annotations

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.deadline import Deadline
from services.common.errors import Unavailable
from services.common.grpc_client import Peer
from services.common.grpc_server import PROBLEMS_METADATA


async def check(peer: Peer, deadline: Deadline) -> None:
    """Returns where the peer is ready.

    Raises:
        Unavailable: it cannot be reached, or not-ready; the message says what it is waiting for.
    """
    call = health_pb2_grpc.HealthStub(peer.channel()).Check(
        health_pb2.HealthCheckRequest(), timeout=deadline.child().remaining()
    )
    try:
        answer = await call
    except aio.AioRpcError as error:
        raise peer.error(error) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        metadata = await call.trailing_metadata()
        problems = [value.decode() for key, value in metadata or () if key == PROBLEMS_METADATA]
        raise Unavailable("not ready: " + "; ".join("; ".join(problems).splitlines() or ["no reason given"]))

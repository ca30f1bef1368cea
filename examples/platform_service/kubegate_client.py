"""kubegate as another platform service sees it: three calls over the published contracts.

Needs grpcio, protobuf and the generated contracts (package ``kubegate``), and nothing else of this repository.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2

TIMEOUT = 5.0
"""Seconds for one call."""


class Refused(Exception):
    """The caller is not authenticated or not allowed; the message is fit for the caller."""


class Away(Exception):
    """kubegate cannot answer now. Nothing may be done in its stead: fail closed and try again later."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven caller. ``token``, valid for a minute and for this service only, proves it to authz and audit."""

    name: str
    token: str


class Kubegate:
    """Holds one channel to each service; safe for many threads."""

    def __init__(self, certificates: Path, addresses: dict[str, str]) -> None:
        """``certificates``: what ``kubegate certs issue platform/NAME --out DIR`` wrote. ``addresses``: of
        authn, authz and audit.
        """
        credentials = grpc.ssl_channel_credentials(
            (certificates / "ca.crt").read_bytes(),
            (certificates / "tls.key").read_bytes(),
            (certificates / "tls.crt").read_bytes(),
        )

        def channel(service: str) -> grpc.Channel:
            # Each service proves a name of its own, wherever it listens: always check for that very name.
            pinned = (("grpc.ssl_target_name_override", f"{service}.kubegate.internal"),)
            return grpc.secure_channel(addresses[service], credentials, options=pinned)

        self._channels = {service: channel(service) for service in ("authn", "authz", "audit")}
        self._authn = authn_pb2_grpc.AuthnServiceStub(self._channels["authn"])
        self._authz = authz_pb2_grpc.AuthzServiceStub(self._channels["authz"])
        self._audit = audit_pb2_grpc.AuditServiceStub(self._channels["audit"])

    def authenticate(self, credential: str, address: str) -> Caller:
        """Who has sent an API key or a JWT."""
        request = authn_pb2.AuthenticateRequest(
            credential=authn_pb2.Credential(token=credential), source=identity_pb2.Source(address=address)
        )
        answer = _call(self._authn.Authenticate, request)
        return Caller(f"{answer.principal.issuer}:{answer.principal.subject}", answer.principal_token)

    def check(self, caller: Caller, action: identity_pb2.Action, address: str) -> str:
        """The event id of the allowing decision. Raises ``Refused`` with what is missing."""
        request = authz_pb2.CheckRequest(
            principal_token=caller.token, action=action, source=identity_pb2.Source(address=address)
        )
        answer = _call(self._authz.Check, request)
        if answer.WhichOneof("outcome") != "allowed":
            raise Refused(answer.denied.explanation or "not allowed")
        event_id: str = answer.event_id
        return event_id

    def record(self, caller: Caller, event_id: str, action: str, resource: str, namespace: str, text: str) -> None:
        """Returns when the event is durable. ``event_id``: a UUID version 7; sent twice, it is stored once."""
        event = audit_pb2.Event(
            event_id=event_id,
            event_type=audit_pb2.EVENT_TYPE_EXTERNAL,
            action=action,
            resource=resource,
            namespace=namespace,
            result=audit_pb2.RESULT_SUCCESS,
            metadata={"text": text},
        )
        event.timestamp.GetCurrentTime()
        _call(self._audit.Append, audit_pb2.AppendRequest(event=event, principal_token=caller.token))

    def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            channel.close()


def _call(method: Any, request: Any) -> Any:
    try:
        return method(request, timeout=TIMEOUT)
    except grpc.RpcError as error:
        # What a stub raises is an RpcError and a Call in one.
        code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT):
            raise Refused("not authenticated") from None
        raise Away(f"kubegate cannot answer ({code.name.lower()})") from None

"""Which issuers are named as authorization servers: those where a person may sign in now (I6.20)."""

from typing import Any

import pytest

from kubegate.authn.v1 import authn_pb2
from services.authn.model import Secret, TrustedIssuer
from services.authn.servicer import AuthnServicer

SCOPES = {"kube:read": "viewer", "kube:ops": "operator"}


def issuer(name: str, **more: Any) -> TrustedIssuer:
    return TrustedIssuer(f"https://{name}.example", "https://gate.example/mcp", **more)


@pytest.mark.req("I6.20", "I6.23")
async def test_only_where_a_person_may_sign_in_now() -> None:
    issuers = [
        issuer("one", scope_map=SCOPES, initial_scopes=("kube:read",)),
        issuer("two", scope_map=SCOPES),
        issuer("roles"),
        issuer("disabled", enabled=False),
        issuer("cluster", kubernetes=True),
        issuer("shared", secret=Secret("s" * 32)),
    ]
    unused: Any = None
    servicer = AuthnServicer(unused, unused, unused, lambda: issuers)
    answer = await servicer.GetAuthorizationServers(authn_pb2.GetAuthorizationServersRequest(), None)
    assert [(each.issuer, list(each.scopes), list(each.initial_scopes)) for each in answer.servers] == [
        ("https://one.example", ["kube:ops", "kube:read"], ["kube:read"]),
        ("https://two.example", ["kube:ops", "kube:read"], ["kube:ops", "kube:read"]),
        ("https://roles.example", [], []),
    ]

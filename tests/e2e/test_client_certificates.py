"""Client certificates through HTTPS: a credential of their own, and what a key may be bound to (I3.3, I6.28)."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.trusting import TrustingStack

LIST = "/mcp/tools/list_pods"
SCALE = "/mcp/tools/scale_deployment"
WHERE = {"namespace": "default"}


@pytest.mark.req("I3.3", "I6.28", "R3")
def test_a_certificate_is_its_holder_and_may_do_what_the_configuration_says(trusting: TrustingStack) -> None:
    with trusting.as_client("robot") as client:
        listed = client.post(LIST, json=WHERE)
        assert listed.status_code == 200
        assert client.post(SCALE, json={**WHERE, "name": "nginx", "replicas": 1}).status_code == 403
    (event,) = trusting.events(event_type="mcp_request", request_id=listed.headers["x-request-id"])
    assert (event["user"], event["metadata"]["auth_type"]) == ("robot", "certificate")
    assert event["metadata"]["credential_id"].startswith("sha256:")


@pytest.mark.req("I3.3", "I6.28", "I3.11")
def test_a_certificate_that_stands_for_nobody_or_has_ended_is_refused(trusting: TrustingStack) -> None:
    with trusting.as_client("nobody") as client:
        refused = client.post(LIST, json=WHERE)
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    with trusting.as_client("ended") as client, pytest.raises(httpx.TransportError):
        client.post(LIST, json=WHERE)
    with trusting.client() as client:
        assert client.post(LIST, json=WHERE).status_code == 401, "without any"
        assert client.get("/healthz").status_code == 200, "none is demanded"


@pytest.mark.req("I3.1", "I3.3", "I6.28")
def test_a_key_that_is_bound_to_a_certificate_is_worth_nothing_without_it(trusting: TrustingStack) -> None:
    """Also while the core still remembers that it was good with the certificate."""
    certificate = str(trusting.certificate("robot"))
    key = trusting.new_key("bound", "--role", "viewer", "--certificate", certificate)

    def statuses(client: httpx.Client) -> set[int]:
        with client:
            return {client.post(LIST, json=WHERE).status_code for _ in range(2)}

    assert statuses(trusting.as_client("robot", key)) == {200}
    assert statuses(trusting.client(key)) == {401}
    assert statuses(trusting.as_client("other", key)) == {401}
    assert statuses(trusting.as_client("robot", key)) == {200}
    bound = trusting.events(event_type="mcp_request", user="bound")
    assert {event["metadata"]["auth_type"] for event in bound} == {"api_key"}, "the key counts, not the certificate"
    (*_, refused) = trusting.events(event_type="authentication", result="failure", user="bound")
    assert refused["error_message"] == "wrong or missing client certificate"

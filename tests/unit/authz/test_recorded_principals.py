"""A recorded principal says all that policy reads of it, so that a replay decides as it was decided."""

import json

import pytest

from services.authz.adapters.principal_tokens import recorded
from services.authz.policy.cel import LASTING, PASSING
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Circumstances, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import Scope
from services.cli.policy_cases import Who

WHOLE = Principal(
    issuer="https://idp.example",
    subject="alice",
    roles=("viewer",),
    permissions=("k8s:pods:list",),
    namespaces=Scope.of(["dev"]),
    tools=frozenset({"list_pods"}),
    auth_type="jwt",
    tenant="acme",
    groups=("g1",),
    amr=("pwd",),
    auth_time=1_700_000_000.0,
    narrowed_to=frozenset({"viewer"}),
)


@pytest.mark.req("R18", "R11")
def test_all_that_a_condition_reads_is_on_record_and_comes_back() -> None:
    """Regression: ``auth_type`` was left out."""
    read = {name.removeprefix("principal.") for name in LASTING | PASSING if name.startswith("principal.")}
    assert read <= set(json.loads(recorded(WHOLE)))
    assert Who.model_validate_json(recorded(WHOLE)).principal() == WHOLE


@pytest.mark.req("R18")
def test_a_replay_decides_by_how_somebody_proved_who_he_is() -> None:
    policy = parse_policy(
        b"roles: [{name: viewer, permissions: ['k8s:pods:list'], condition: 'principal.auth_type == \"jwt\"'}]"
    )
    replayed = Who.model_validate_json(recorded(WHOLE)).principal()
    action = Action("", "pods", "list", namespace="dev", tool="list_pods")
    assert isinstance(Engine(policy).decide(replayed, action, Circumstances(1.0)), Allowed)

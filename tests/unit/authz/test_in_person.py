"""What nobody does for somebody else (R17): a token that names who acts is for calls of tools and for looking on."""

from dataclasses import replace

import pytest

from kubegate.common.v1 import identity_pb2
from services.authz.adapters.principal_tokens import recorded, to_principal
from services.authz.policy.engine import Engine
from services.authz.policy.explain import explain
from services.authz.policy.model import UNKNOWN, Action, Allowed, Denied, Policy, Principal, Reason, Role
from services.authz.policy.permissions import KUBEGATE, PERMISSIONS
from services.authz.policy.scope import EVERYWHERE
from services.authz.policy.suggest import suggest
from services.cli.policy_cases import Who

ENGINE = Engine(Policy((Role("admin", ("k8s:*", "kubegate:*", "kubegate:confirm:handle")),), "rev"))
CAROL = Principal("kubegate", "carol", ("admin",), namespaces=EVERYWHERE)
FOR_CAROL = replace(CAROL, actors=(("kubegate", "bob"),))
CHANGES = {
    "elevations": ["request", "approve", "revoke"],
    "keys": ["create", "enable", "disable", "rotate", "delete", "withdraw"],
    "users": ["create", "update", "enable", "disable", "delete"],
    "issuers": ["create", "update", "delete"],
    "grants": ["any"],
    "policy": ["reload", "rollback"],
    "audit": ["attest", "hold", "retire"],
}
SHUT = [f"{area}:{verb}" for area, verbs in CHANGES.items() for verb in verbs]


def action(text: str) -> Action:
    area, verb = text.split(":")
    return Action(KUBEGATE, area, verb)


@pytest.mark.req("R17", "I3.5")
@pytest.mark.parametrize("text", SHUT)
def test_who_may_do_what_is_changed_in_person_only(text: str) -> None:
    assert isinstance(ENGINE.decide(CAROL, action(text)), Allowed)
    denied = ENGINE.decide(FOR_CAROL, action(text))
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.rule_id) == (Reason.DELEGATED, "denied:delegated")
    assert "use a token of your own" in denied.explanation
    assert denied.permission == "", "no grant would allow it, so none is proposed"
    assert ENGINE.allowed_scope(FOR_CAROL, action(text)).empty
    assert not ENGINE.allowed_scope(CAROL, action(text)).empty
    found = explain(ENGINE, FOR_CAROL, action(text), UNKNOWN)
    assert [step.rule_id for step in found.steps if step.decides] == ["denied:delegated"]
    assert not any(step.said == "role of the credential: allows" for step in found.steps)
    assert not suggest(ENGINE, FOR_CAROL, [action(text)], ["admin"], UNKNOWN)[0].roles


@pytest.mark.req("R17", "I3.5")
def test_all_else_is_as_without_who_acts() -> None:
    """What is listed here and above is all that there is: a new permission has to be put on one side."""
    open_ = {text for text in (each.text for each in PERMISSIONS.values()) if text.startswith("kubegate:")}
    open_ -= {f"kubegate:{text}" for text in SHUT}
    assert {text.split(":")[1] for text in open_ if not text.endswith((":list", ":read", ":diff", ":explain"))} == {
        "secrets",
        "confirm",
        "danger",
    }
    for (group, resource, subresource, verb), permission in PERMISSIONS.items():
        if permission.text.removeprefix("kubegate:") in SHUT:
            continue
        place = "default" if permission.kind.namespaced else ""
        asked = Action(group, resource, verb, subresource, place)
        assert ENGINE.decide(FOR_CAROL, asked) == ENGINE.decide(CAROL, asked), permission.text


@pytest.mark.req("R17", "R18", "I5.7")
def test_who_acts_is_read_from_the_token_and_is_on_record_for_a_replay() -> None:
    message = identity_pb2.Principal(
        issuer="kubegate", subject="carol", actors=[identity_pb2.Actor(issuer="https://idp.example", subject="bob")]
    )
    principal = to_principal(message)
    assert principal.actors == (("https://idp.example", "bob"),)
    assert Who.model_validate_json(recorded(principal)).principal().actors == principal.actors

"""Token exchange (RFC 8693): what may be asked for, and what comes of it. No signing, no IO.

The new token is the subject's and never more than it: the same identity, tenant, namespaces and tools, all of its roles
and direct permissions, or some and then without what bindings and elevations add, the same proof (`amr`, `auth_time`),
no longer life. Who acts for the subject is named in it and adds nothing. An actor once named stays named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.authn.model import Principal, Secret
from services.common.errors import InvalidArgument, PermissionDenied

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
"""Types of tokens (RFC 8693, 3): ours, and those of trusted issuers, are both."""

MAX_ACTORS = 4
"""How many may act for each other in a row."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked for; ``targets`` are audiences and resources. ``actor`` is empty where nobody is to act."""

    subject: Secret = field(repr=False)
    subject_type: str
    actor: Secret = field(repr=False)
    actor_type: str
    targets: tuple[str, ...]
    scope: str
    requested_type: str


def check_form(asked: Exchange, audience: str) -> None:
    """Whether such tokens are exchanged, and for such ones. ``audience``: the only one that tokens are issued for.

    Raises:
        InvalidArgument: lists every problem.
    """
    problems = []
    types = f"{ACCESS_TOKEN} or {JWT}"
    if not len(asked.subject):
        problems.append("subject_token is missing")
    if asked.subject_type not in (ACCESS_TOKEN, JWT):
        problems.append(f"subject_token_type must be {types}")
    if len(asked.actor) and asked.actor_type not in (ACCESS_TOKEN, JWT):
        problems.append(f"actor_token_type must be {types}")
    if asked.actor_type and not len(asked.actor):
        problems.append("actor_token is missing, though actor_token_type is there")
    if asked.requested_type not in ("", ACCESS_TOKEN, JWT):
        problems.append(f"requested_token_type may be {types}")
    if any(target != audience for target in asked.targets):
        problems.append(f"audience and resource may be {audience} only; tokens for others are not issued here")
    if problems:
        raise InvalidArgument("The tokens cannot be exchanged: " + "; ".join(problems) + ".")


def narrowed(subject: Principal, scope: str) -> tuple[str, ...]:
    """What of the subject's roles and direct permissions the new token keeps; nothing where it keeps them all.

    They are not taken out of the principal: a deny rule that speaks of a role must not be escaped by leaving it.

    Raises:
        InvalidArgument: the subject's token has not all that is asked for.
    """
    wanted = tuple(dict.fromkeys(scope.split()))
    if not wanted:
        return subject.narrowed_to
    there = subject.narrowed_to or (*subject.roles, *subject.permissions)
    lacking = [text for text in wanted if text not in there]
    if lacking:
        raise InvalidArgument(
            f"The tokens cannot be exchanged: scope names {lacking[0][:64]!r}, which the subject's token does not "
            "have. An exchange only narrows; name roles and direct permissions of the subject, or no scope."
        )
    return wanted


def scope_of(principal: Principal) -> str:
    """What a principal's token keeps, as a scope."""
    return " ".join(principal.narrowed_to or (*principal.roles, *principal.permissions))


def acting(subject: Principal, actor: Principal | None, may_act: tuple[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Who acts, the current one first. ``may_act``: whom the subject's token lets act, where it says so (4.4).

    Raises:
        InvalidArgument: the actor's token is not its own, or too many act for each other.
        PermissionDenied: another may act.
    """
    if actor is None:
        return subject.actors
    who = actor.issuer, actor.subject
    if actor.actors:
        raise InvalidArgument("The tokens cannot be exchanged: for the actor acts somebody else; show its own token.")
    if may_act is not None and who != may_act:
        raise PermissionDenied("The subject's token lets somebody else act for its subject.")
    if len(subject.actors) >= MAX_ACTORS:
        raise InvalidArgument(f"The tokens cannot be exchanged: {MAX_ACTORS} act for each other already.")
    return who, *subject.actors


def actors_of(claim: Any, issuer: str, *, others: bool = True) -> tuple[tuple[str, str], ...]:
    """Who acts, after a claim `act` of a token of ``issuer``, who is meant where it names no other. ``others``: whether
    it may name people of other issuers, as our own tokens do after each of them has shown a token himself.

    Raises:
        ValueError: it is malformed, names more than can be, or somebody for whom the issuer cannot speak.
    """
    found: list[tuple[str, str]] = []
    while claim is not None:
        if not isinstance(claim, Mapping) or len(found) == MAX_ACTORS:
            raise ValueError("act")
        who = claim.get("iss", issuer), claim.get("sub")
        if not all(isinstance(text, str) and text for text in who):
            raise ValueError("act")
        if not others and who[0] != issuer:
            raise ValueError("act")
        found.append((str(who[0]), str(who[1])))
        claim = claim.get("act")
    return tuple(found)

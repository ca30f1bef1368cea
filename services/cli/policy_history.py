"""`kubegate policy history | rollback`: the policies that were in force, and back to one of them."""

import sys
from typing import Annotated, Any

import typer

from kubegate.authz.v1 import policy_admin_pb2
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, fail
from services.cli.policy_calls import ask


def history(
    show: Annotated[
        int, typer.Option("--show", metavar="NUMBER", min=0, help="Print this one, as its file was, and nothing else.")
    ] = 0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """List the policies that were in force, newest first: number, digest, when, who, how. The newest 32 are kept."""
    if show:
        asked = policy_admin_pb2.GetPolicyRequest(number=show)
        found: policy_admin_pb2.GetPolicyResponse = ask(home, "GetPolicy", asked)
        sys.stdout.buffer.write(found.content)
        return
    response: policy_admin_pb2.ListPoliciesResponse = ask(home, "ListPolicies", policy_admin_pb2.ListPoliciesRequest())
    if as_json:
        emit_json([_described(policy) for policy in response.policies])
        return
    rows = [tuple(str(value) for value in _described(policy).values()) for policy in response.policies]
    emit_table(("NUMBER", "REVISION", "IN FORCE FROM", "BY", "HOW"), rows, "none is kept")


def rollback(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `kubegate policy history` shows it.")],
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Put an earlier policy in force again, at once, under a new number; the policy file says it then too.

    Look first: `kubegate policy history --show NUMBER > FILE` and `kubegate policy diff FILE`.

    Where authz cannot write its policy file (a ConfigMap, a read-only volume), nothing is changed, and the message says
    what to do.
    """
    request = policy_admin_pb2.RollbackPolicyRequest(number=number)
    response: policy_admin_pb2.RollbackPolicyResponse = ask(home, "RollbackPolicy", request)
    policy = response.policy
    if not policy.number:
        fail("authz did not say what is in force; see `kubegate policy history`")
    if as_json:
        emit_json({**_described(policy), "previous": response.previous_revision})
    else:
        print(f"revision {policy.revision} is in force again, as number {policy.number}")


def _described(policy: policy_admin_pb2.AdoptedPolicy) -> dict[str, Any]:
    return {
        "number": policy.number,
        "revision": policy.revision,
        "adopted_at": policy.adopted_at.ToJsonString(),
        "by": policy.by,
        "how": policy.how,
    }

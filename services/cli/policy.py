"""`kubegate policy ...`: what an operator does with a policy file. Most of it needs no stack."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml

from kubegate.authz.v1 import policy_admin_pb2
from kubegate.common.v1 import identity_pb2
from services.authz.policy import PolicyError, load_policy
from services.authz.policy.diff import Holding, diff
from services.authz.policy.document import InvalidPolicy
from services.authz.policy.engine import Engine
from services.authz.policy.explain import explain
from services.authz.policy.model import Allowed, Circumstances, Policy, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.permissions import GRANTABLE, explain_malformed, key_of
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, emit_table, fail
from services.cli.policy_calls import ask
from services.cli.policy_cases import What, Who, read_cases, replay, run_case, uncovered
from services.cli.policy_history import history, rollback
from services.cli.policy_record import read_decisions

app = typer.Typer(no_args_is_help=True, help="Check, test, explain, compare, reload and restore policies.")

app.command()(history)
app.command()(rollback)

PolicyFile = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="Policy file; default: that of the home.")
]


@app.callback()
def policy() -> None:
    """Check, test, explain, compare, reload and restore policies."""


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file (YAML).")], as_json: Json = False
) -> None:
    """Say everything that is wrong with a policy file.

    Exit codes: 0 valid, 1 invalid (every problem on standard output as file:line:column: message), 2 unreadable.
    """
    try:
        parsed = parse_policy(file.read_bytes())
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}")
    except InvalidPolicy as error:
        if as_json:
            problems = [{"line": each.line, "column": each.column, "message": each.message} for each in error.problems]
            emit_json({"file": str(file), "valid": False, "problems": problems})
        else:
            print("\n".join(each.at(str(file)) for each in error.problems))
        raise typer.Exit(NEGATIVE) from None
    if as_json:
        roles = [role.name for role in parsed.roles]
        emit_json({"file": str(file), "valid": True, "revision": parsed.revision, "roles": roles})
    else:
        print(f"{file}: valid, {len(parsed.roles)} roles, revision {parsed.revision}")


@app.command(name="test")
def run_tests(
    file: Annotated[Path, typer.Argument(metavar="CASES", help="Cases (YAML): principal, action, expect, rule.")],
    policy_file: PolicyFile = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="Also name the rules on which no case rests.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Run cases against a policy file; needs no running stack.

    Exit codes: 0 all pass, 1 some fail, 2 policy or cases unusable.
    """
    engine = Engine(load(_policy_path(policy_file, home)))
    try:
        cases = read_cases(yaml.safe_load(file.read_bytes()))
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}")
    except yaml.YAMLError:
        fail(f"{file}: not valid YAML")
    except ValueError as error:
        fail("\n".join(f"{file}: {line}" for line in str(error).splitlines()))
    verdicts = [run_case(engine, case) for case in cases.cases]
    failed = [verdict for verdict in verdicts if verdict.fault]
    missed = uncovered(engine, verdicts) if coverage else []
    if as_json:
        results = [
            {"name": each.case.name, "passed": not each.fault, "rule": each.decision.rule_id, "fault": each.fault}
            for each in verdicts
        ]
        emit_json({"passed": not failed, "cases": results, **({"uncovered": missed} if coverage else {})})
    else:
        for verdict in failed:
            print(f"FAILED {verdict.case.name}: {verdict.fault}")
        for rule in missed:
            print(f"no case rests on {rule}")
        print(f"{len(verdicts) - len(failed)} of {len(verdicts)} cases pass")
    if failed:
        raise typer.Exit(NEGATIVE)


@app.command(name="explain")
def explain_decision(
    permission: Annotated[str, typer.Argument(metavar="PERMISSION", help="Such as k8s:pods:delete.")],
    namespace: Annotated[str, typer.Option("--namespace", metavar="N", help="Namespace; none for outside them.")] = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the object.")] = "",
    replicas: Annotated[int | None, typer.Option("--replicas", min=0, help="Replicas asked for.")] = None,
    subject: Annotated[str, typer.Option("--subject", metavar="S", help="Whom it is about.")] = "somebody",
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="Issuer of the subject.")] = "kubegate",
    role: Annotated[list[str] | None, typer.Option("--role", metavar="R", help="A role that it has.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", metavar="G", help="A group that it is in.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Its tenant.")] = "",
    amr: Annotated[list[str] | None, typer.Option("--amr", metavar="M", help="How it was proven, such as mfa.")] = None,
    policy_file: PolicyFile = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show every rule considered and why: of the running stack, or of a file with --policy.

    Exit codes: 0 allowed, 1 denied, 2 cannot tell.
    """
    if key_of(permission) is None:
        fail(explain_malformed(permission) if permission not in GRANTABLE else f"{permission}: name one verb, not all")
    who = Who(
        issuer=issuer,
        subject=subject,
        roles=tuple(role or ()),
        groups=tuple(group or ()),
        tenant=tenant,
        amr=tuple(amr or ()),
    )
    what = What(permission=permission, namespace=namespace, name=name, replicas=replicas)
    if policy_file is not None:
        at = Circumstances(datetime.now(UTC).timestamp())
        engine = Engine(load(policy_file))
        found = explain(engine, who.principal(), what.action(), at)
        rows = [(step.rule_id, step.said, step.decides) for step in found.steps]
        allowed, rule, revision = isinstance(found.decision, Allowed), found.decision.rule_id, engine.revision
    else:
        response = ask(home, "ExplainPrincipal", _explain_request(who, what))
        rows = [(each.rule_id, each.outcome, each.decides) for each in response.considered]
        allowed, rule, revision = response.allowed, response.rule_id, response.policy_revision
    if as_json:
        considered = [{"rule": rule, "outcome": outcome, "decides": decides} for rule, outcome, decides in rows]
        emit_json({"allowed": allowed, "rule": rule, "revision": revision, "considered": considered})
    else:
        emit_table(("", "RULE", "OUTCOME"), [("=>" if row[2] else "", row[0], row[1]) for row in rows], "no rules")
        print(f"{'allowed' if allowed else 'denied'} by {rule}, revision {revision}")
    if not allowed:
        raise typer.Exit(NEGATIVE)


@app.command(name="diff")
def compare(
    candidate: Annotated[Path, typer.Argument(metavar="FILE", help="The policy that might come.")],
    policy_file: PolicyFile = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show who would gain or lose what; needs no running stack.

    Exit codes: 0 nothing changes, 1 something does, 2 a policy is unusable.
    """
    changes = list(diff(load(_policy_path(policy_file, home)), load(candidate)))
    if as_json:
        emit_json(
            [
                {
                    "who": each.who,
                    "permission": each.permission,
                    "before": _held(each.before),
                    "after": _held(each.after),
                }
                for each in changes
            ]
        )
    else:
        rows = [(each.who, each.permission, _held(each.before), _held(each.after)) for each in changes]
        emit_table(("WHO", "PERMISSION", "NOW", "THEN"), rows, "nothing changes")
    if changes:
        raise typer.Exit(NEGATIVE)


@app.command(name="replay")
def replay_record(
    candidate: Annotated[Path, typer.Argument(metavar="FILE", help="The policy that might come.")],
    since: Annotated[str, typer.Option("--since", help="From then: RFC 3339, or 15m, 2h, 7d ago.")] = "24h",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Newest records at most.")] = 10_000,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Decide recorded decisions again by another policy and show those that would change.

    Exit codes: 0 none changes, 1 some do, 2 the policy is unusable or the record cannot be read.
    """
    engine = Engine(load(candidate))
    principals: dict[str, Principal] = {}
    replayed = [each for event in read_decisions(home, since, limit) for each in replay(engine, event, principals)]
    changes = [each for each in replayed if each.changes]
    untold = sum(each.after is None for each in replayed)
    rows = [
        {
            "event_id": each.event_id,
            "user": each.user,
            "permission": each.permission,
            "namespace": each.namespace,
            "before": each.before,
            "after": each.after.rule_id if each.after is not None else "",
        }
        for each in changes
    ]
    if as_json:
        emit_json({"decisions": len(replayed), "cannot_tell": untold, "changes": rows})
    else:
        columns = ("USER", "PERMISSION", "NAMESPACE", "BEFORE", "AFTER", "EVENT")
        keys = ("user", "permission", "namespace", "before", "after", "event_id")
        if rows:
            emit_table(columns, [tuple(row[key] for key in keys) for row in rows], "")
        more = f", {untold} cannot be told" if untold else ""
        print(f"{len(changes)} of {len(replayed)} recorded decisions would change{more}")
    if changes:
        raise typer.Exit(NEGATIVE)


@app.command()
def reload(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Make authz read its policy file now.

    Exit codes: 0 the file is in force, 1 it is unusable and the last good revision stays, 2 cannot tell.
    """
    response: policy_admin_pb2.ReloadPolicyResponse = ask(home, "ReloadPolicy", policy_admin_pb2.ReloadPolicyRequest())
    problems = [{"line": each.line, "column": each.column, "message": each.message} for each in response.problems]
    if as_json:
        emit_json({"revision": response.revision, "previous": response.previous_revision, "problems": problems})
    else:
        for each in response.problems:
            print(f"policy:{each.line}:{each.column}: {each.message}")
        print(f"revision {response.revision} is in force")
    if problems:
        raise typer.Exit(NEGATIVE)


def _explain_request(who: Who, what: What) -> policy_admin_pb2.ExplainPrincipalRequest:
    action = what.action()
    message = identity_pb2.Action(
        verb=action.verb,
        group=action.group,
        resource=action.resource,
        subresource=action.subresource,
        namespace=action.namespace,
        name=action.name,
    )
    if action.replicas is not None:
        message.attributes.replicas = action.replicas
    principal = identity_pb2.Principal(
        issuer=who.issuer, subject=who.subject, roles=who.roles, groups=who.groups, tenant=who.tenant, amr=who.amr
    )
    return policy_admin_pb2.ExplainPrincipalRequest(principal=principal, action=message)


def _held(holding: Holding) -> str:
    if holding.scope.empty:
        return "-"
    text = "everywhere" if holding.scope.everything else ", ".join(holding.scope.patterns())
    if not holding.excluding.empty:
        text += f" except {', '.join(holding.excluding.patterns()) or 'everywhere'}"
    return "; ".join([text, *(f"if {condition}" for condition in holding.conditions)])


def _policy_path(policy_file: Path | None, home: Path) -> Path:
    if policy_file is not None:
        return policy_file
    path = HomeLayout(home).policy
    if not path.exists():
        fail(f"no policy in {path.parent}: name one with --policy, or another --home")
    return path


def load(file: Path) -> Policy:
    """The policy in a file; ends the command with 2, naming every problem, where there is none."""
    try:
        return load_policy(file)
    except PolicyError as error:
        fail(f"the policy is unusable\n{error}")

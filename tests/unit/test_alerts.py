"""Alert rules: valid, each tested firing and quiet by promtool, each with a page of the runbooks (I9.11, I9.12)."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from services.cli.main import app
from services.mcp_core import confirmation, http
from tests.fakes.prometheus import promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
PAGES = ROOT / "docs" / "runbooks"


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((RULES / "security.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def by_name(name: str) -> dict[str, Any]:
    [found] = [rule for rule in alerts() if rule["alert"] == name]
    return found


@pytest.mark.req("I9.11")
def test_promtool_accepts_rules_and_configuration() -> None:
    done = promtool("check", "rules", "security.yaml", cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("check", "config", "--syntax-only", "prometheus.yaml", cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("I9.11")
def test_every_rule_passes_its_cases() -> None:
    done = promtool("test", "rules", "security.test.yaml", cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("I9.11")
def test_each_alert_has_a_firing_and_a_quiet_case() -> None:
    document = yaml.safe_load((RULES / "security.test.yaml").read_text(encoding="utf-8"))
    cases = [case for test in document["tests"] for case in test["promql_expr_test"]]
    for rule in alerts():
        mine = [case for case in cases if f'alertname="{rule["alert"]}",alertstate="firing"' in case["expr"]]
        assert any(case["exp_samples"] for case in mine), f"{rule['alert']}: no case in which it fires"
        assert any(not case["exp_samples"] for case in mine), f"{rule['alert']}: no case in which it is quiet"


@pytest.mark.req("I9.11")
def test_the_promised_alerts_have_their_thresholds() -> None:
    failed = by_name("HighFailedAuthentications")
    assert failed["expr"] == 'sum(rate(mcp_authentication_attempts_total{result="failure"}[5m])) > 10'
    assert (failed["for"], failed["labels"]["severity"]) == ("2m", "warning")
    denied = by_name("UnauthorizedAccess")
    assert denied["expr"].endswith("> 5")
    assert 'increase(mcp_authorization_checks_total{result="denied"}[5m])' in denied["expr"]
    assert (denied["for"], denied["labels"]["severity"]) == ("1m", "critical")
    violation = by_name("SecurityViolation")
    assert violation["expr"].endswith("> 0")
    assert "increase(mcp_security_violations_total[1m])" in violation["expr"]
    assert ("for" in violation, violation["labels"]["severity"]) == (False, "critical")


@pytest.mark.req("I9.12")
def test_rules_and_runbooks_name_each_other() -> None:
    linked = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in alerts()}
    assert linked == {name: f"docs/runbooks/{name}.md" for name in linked}
    assert {page.stem for page in PAGES.glob("*.md")} == {*linked, "README"}
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    for name in linked:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        for part in ("**Means.**", "**Look.**", "**Do.**", "```sh\n"):
            assert part in text, f"{name}: no {part}"
        severity = by_name(name)["labels"]["severity"]
        assert f"| [{name}]({name}.md) | {severity} |" in index


@pytest.mark.req("I9.12")
def test_every_annotation_explains_itself() -> None:
    for rule in alerts():
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}
        assert re.fullmatch(r"[A-Z].+\.", annotations["description"]), rule["alert"]


def commands() -> list[tuple[str, list[str]]]:
    """Every `kubegate` line of the pages, with its placeholders filled in."""
    filled = {"USER": "admin", "ROLE": "viewer", "SERVICE": "authn", "HOME": "/tmp/home"}
    found: list[tuple[str, list[str]]] = []
    for page in sorted(PAGES.glob("*.md")):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                words = re.sub(r"\b(USER|ROLE|SERVICE|HOME)\b", lambda name: filled[name[0]], line).split()
                if words[0] == "kubegate":
                    found.append((page.name, words[1:]))
    return found


@pytest.mark.req("I9.12")
def test_the_command_line_takes_every_command_of_the_runbooks() -> None:
    """Parsed as the program would, and not run: subcommands, options and the values of those that are closed."""
    every = commands()
    assert len(every) > 15
    for page, words in every:
        command: Any = typer.main.get_command(app)
        context = command.make_context("kubegate", list(words))
        rest = [*context._protected_args, *context.args]
        while rest:
            name, command, rest = command.resolve_command(context, rest)
            assert command is not None, f"{page}: {words}"
            context = command.make_context(name, rest, parent=context)
            if not hasattr(command, "resolve_command"):
                break
            rest = [*context._protected_args, *context.args]


@pytest.mark.req("I9.12")
def test_the_runbook_explains_every_kind_of_security_violation() -> None:
    """Those that come of a closed set by its members, the others by the literals in the sources."""
    kinds = {f"confirmation_{why}" for why in confirmation.VIOLATIONS}
    kinds |= {said.replace(" ", "_") for said in http._VIOLATIONS.values()}
    literal = re.compile(
        r'"violation_type"\] = "(\w+)"|SECURITY_VIOLATIONS\.labels\("(\w+)"|\.violation = .*"(\w+)"$', re.MULTILINE
    )
    for source in (ROOT / "services").rglob("*.py"):
        for found in literal.finditer(source.read_text(encoding="utf-8")):
            kinds.add(found[found.lastindex or 0])
    assert {"foreign_host", "confirmation_used", "caller_refused", "request_state_refused"} <= kinds
    page = (ROOT / "docs/runbooks/SecurityViolation.md").read_text(encoding="utf-8")
    explained = {
        name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert explained - {"violation_type"} == kinds

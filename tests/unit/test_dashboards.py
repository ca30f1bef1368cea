"""Grafana's dashboards are what their description gives, and valid: no Grafana can be had here to show them (I9.13)."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.telemetry import metrics
from tests.fakes.prometheus import promtool
from tests.fakes.promql import expressions_of_dashboards

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def description() -> Any:
    spec = importlib.util.spec_from_file_location("kubegate_dashboards", GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.req("I9.13")
def test_files_are_what_the_description_gives() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS}
    assert there == description().files(), "run `make dashboards`"


@pytest.mark.req("I9.13")
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == path.stem
    assert len(board["uid"]) <= 40
    assert board["title"].startswith("kubegate: ")
    panels = board["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["type"] in ("timeseries", "stat")
            assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]


@pytest.mark.req("I9.13")
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(expressions_of_dashboards())
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = promtool("check", "rules", "queries.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("I9.13")
def test_provisioning_names_what_is_there() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8"))
    assert [source["uid"] for source in sources["datasources"]] == ["prometheus"]
    providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/kubegate.yaml").read_text(encoding="utf-8"))
    assert providers["providers"][0]["options"]["path"] == "/etc/kubegate/dashboards"


@pytest.mark.req("I9.7")
def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    groups = {
        "every service": metrics.EVERY,
        "mcp-core": metrics.CORE,
        "authn": metrics.AUTHN,
        "authz": metrics.AUTHZ,
        "audit": metrics.AUDIT,
    }
    rows: dict[Any, list[str]] = {}
    for service, families in groups.items():
        for family in families:
            rows.setdefault(family, []).append(service)
    expected = [
        f"| `{_name(family)}` | {', '.join(f'`{label}`' for label in family._labelnames)} | {', '.join(services)} |"
        for family, services in rows.items()
    ]
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith(("| `mcp_", "| `kubegate_"))] == expected


def _name(family: Any) -> str:
    described = family.describe()[0]
    return f"{described.name}_total" if described.type == "counter" else str(described.name)

"""Which series PromQL reads: metric names with the labels that it selects or groups by."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_METRIC = re.compile(r"\b((?:mcp|kubegate|process)_\w+|up)(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""


def expressions_of_dashboards() -> list[str]:
    """Every query of every panel, with Grafana's variable filled in."""
    found: list[str] = []
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            found += [target["expr"].replace("$__rate_interval", "1m") for target in panel.get("targets", ())]
    return found


def expressions_of_rules() -> list[str]:
    """Every alert's condition."""
    document = yaml.safe_load((ROOT / "deploy/prometheus/security.yaml").read_text(encoding="utf-8"))
    return [rule["expr"] for group in document["groups"] for rule in group["rules"]]


def uses(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels) of an expression; labels that it groups by are those of each of its metrics."""
    grouped = {label.strip() for each in _GROUPING.findall(expression) for label in each.split(",") if label.strip()}
    for metric, selector in _METRIC.findall(expression):
        labels = set(_MATCHER.findall(selector)) | grouped
        yield metric, labels - TARGET

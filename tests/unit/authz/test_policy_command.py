"""`kubegate policy validate FILE`: needs no stack; 0 valid, 1 invalid, 2 unreadable."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.authz.policy.parse import revision_of
from services.cli.policy import app

GOLDEN = Path(__file__).parents[2] / "golden" / "rbac-policies.yaml"
BROKEN = "roles:\n  - name: viewer\n    permissions: [k8s:pod:list, k8s:pods:list]\n    namespace: [default]\n"


@pytest.mark.req("I2.11")
def test_a_valid_file() -> None:
    result = CliRunner().invoke(app, ["validate", str(GOLDEN)])
    assert result.exit_code == 0
    assert result.stdout == f"{GOLDEN}: valid, 4 roles, revision {revision_of(GOLDEN.read_bytes())}\n"
    answer = json.loads(CliRunner().invoke(app, ["validate", str(GOLDEN), "--json"]).stdout)
    assert answer["valid"] is True
    assert answer["roles"] == ["viewer", "operator", "admin", "developer"]


@pytest.mark.req("I2.11")
def test_an_invalid_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(BROKEN)
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{file}:3:19: 'k8s:pod:list' names the unknown resource 'pod'; did you mean 'pods'?",
        f"{file}:4:5: unknown key 'namespace'; the role knows name, description, permissions, namespaces, "
        "inherits, condition",
    ]
    result = CliRunner().invoke(app, ["validate", str(file), "--json"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["valid"] is False
    assert [(each["line"], each["column"]) for each in answer["problems"]] == [(3, 19), (4, 5)]


@pytest.mark.req("I2.11")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        result = CliRunner().invoke(app, ["validate", str(path)])
        assert result.exit_code == 2
        assert f"{path}: cannot be read" in result.stderr

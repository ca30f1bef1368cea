"""The documents say what the rules demand of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.req("R6")
def test_security_says_what_a_compromised_core_can_still_do_and_what_not() -> None:
    core = SECURITY.split("### mcp_core")[1].split("\n### ")[0]
    can, cannot = core.split("It cannot:")
    assert "credentials of the clients" in can
    assert "impersonate" in can
    assert {"R5", "R18", "R22"} <= set(re.findall(r"\bR\d+\b", cannot))


@pytest.mark.req("I2.10")
def test_the_architecture_names_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:services|protos|tests|deploy)/[\w./]*[\w/])`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.req("I2.10")
def test_no_two_decisions_have_one_number_and_each_says_its_own() -> None:
    numbers = [path.name[:4] for path in ADRS]
    assert len(set(numbers)) == len(numbers), numbers
    for path in ADRS:
        assert re.match(rf"# {int(path.name[:4])}\. \S", path.read_text(encoding="utf-8")), path.name


@pytest.mark.req("I2.10")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_name_the_decision_that_they_lead_to(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for said, target in re.findall(r"\[([^\]]*)\]\(([^)#\s]+)[^)]*\)", text):
        if "://" in target:
            continue
        assert (document.parent / target).exists(), target
        if number := re.match(r"(?:\S*/)?(\d{4})-", target):
            assert said == f"ADR {int(number[1])}", f"[{said}]({target})"


@pytest.mark.req("I2.10")
def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.req("I2.10")
def test_files_are_readable_in_one_sitting() -> None:
    sources = [path for folder in ("services", "bench", "deploy", "tests") for path in (ROOT / folder).rglob("*.py")]
    long = {
        str(path.relative_to(ROOT)): lines for path in sources if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long

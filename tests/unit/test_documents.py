"""What the documents point at is there, and each decision has a number of its own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))


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
def test_every_path_of_the_walk_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:services|tests|examples|protos|docs|deploy|bench)/[\w./-]+)`", text)
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / path).exists()] == []

"""Runs ``steady_load`` beside a test, and judges what it was answered."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

Eventually = Callable[[Callable[[], bool], str], object]
RESULT = {"list": "success", "scale": "success", "denied": "failure"}
"""What the record says of a call that was answered as it should be."""

UNSURE = "unknown"
"""What it says of one that was answered with: it may or may not have been done."""


class Load:
    """Callers in a process of their own, and what they were answered so far."""

    def __init__(
        self, url: str, files: Sequence[Path], output: Path, eventually: Eventually, *, prefix: Sequence[str] = ()
    ) -> None:
        """``files``: the authority's certificate, the administrator's key, the viewer's. ``prefix``: a command that
        runs another one where the URL can be reached."""
        self._output = output
        self._eventually = eventually
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.fakes.steady_load", url, *map(str, files)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def answers(self) -> list[dict[str, str]]:
        """Every whole line so far."""
        lines = self._output.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def counts(self) -> Counter[str]:
        return Counter(answer["outcome"] for answer in self.answers())

    def goes_on(self, when: str, count: int = 30) -> None:
        """Returns when so many more calls were answered rightly."""
        before = self.counts()["right"]
        self._eventually(lambda: self.counts()["right"] >= before + count, f"calls are answered {when}")

    def stop(self) -> list[dict[str, str]]:
        """Ends the callers after the call they are at; all answers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(90)
        return self.answers()


def unrecorded(answers: Sequence[dict[str, str]], record: Collection[tuple[str, str]]) -> list[dict[str, str]]:
    """Answers without an event of type ``mcp_request`` that says the same; ``record``: request id and result of each,
    intents left out.

    Raises:
        AssertionError: an answer was wrong, or there is a kind of call that was never answered rightly.
    """
    wrong = [answer for answer in answers if answer["outcome"] == "wrong"]
    assert not wrong, wrong[:5]
    right = [answer for answer in answers if answer["outcome"] == "right"]
    assert {answer["call"] for answer in right} == set(RESULT)
    unsure = [answer for answer in answers if answer["outcome"] == "unsure"]
    said = [(answer, RESULT[answer["call"]]) for answer in right] + [(answer, UNSURE) for answer in unsure]
    return [answer for answer, result in said if (answer["request_id"], result) not in record]

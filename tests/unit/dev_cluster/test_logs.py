"""Made-up logs: a line is there from its time on, so that whoever follows sees each once."""

import pytest

from services.dev_cluster import logs
from services.dev_cluster.pods import Run

POD = {"metadata": {"uid": "u-1"}}


@pytest.mark.req("I7.1")
@pytest.mark.parametrize("image", ["nginx:1.29", "shop/api:3", "redis:8", "other:1"])
def test_what_was_written_until_a_moment_never_changes(image: str) -> None:
    container = {"name": "app", "image": image}

    def until(moment: float) -> list[logs.Line]:
        return list(logs.lines(POD, container, Run(1000.0, None), moment, crashing=False))

    seen: list[logs.Line] = []
    then = 0.0
    for tick in range(200):
        now = 1000.0 + tick * 0.5
        seen += [line for line in until(now) if line[0] > then]
        then = now
    assert seen == until(then)
    assert len(seen) > 4

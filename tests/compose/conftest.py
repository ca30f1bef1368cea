"""One engine and one stack for all tests of this directory; they run in the order in which they stand."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose import machine
from tests.compose.engine import Engine, Room, sweep
from tests.compose.images import build
from tests.compose.machine import missing, say
from tests.compose.project import STACK, Project, eventually, fetched

SKIP = "KUBEGATE_SKIP_COMPOSE_TEST"


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> None:
    """What is said is seen while it happens."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        machine.TERMINAL = capture.global_and_fixture_disabled


@pytest.fixture(scope="session")
def room(progress: None) -> Iterator[Room]:
    """A place on this machine; without one the tests fail, unless the variable says that they may be skipped."""
    reason = missing()
    if reason and os.environ.get(SKIP):
        pytest.skip(f"no container engine can run here: {reason}")
    assert not reason, f"no container engine can run here: {reason}. {SKIP}=1 skips these tests."
    sweep()
    room = Room()
    try:
        yield room
    finally:
        room.close()
        say("everything is taken down")


@pytest.fixture(scope="session")
def sizes(room: Room) -> dict[str, int]:
    """The images are in the room; how large each is."""
    say("engine: to build")
    with Engine(room, network=False) as engine:
        return build(engine)


@pytest.fixture(scope="session")
def project(room: Room, sizes: dict[str, int]) -> Iterator[Project]:
    """The stack is up, started by the one command that starts it."""
    assert sizes
    say("engine: to run, in a network of its own")
    with Engine(room, network=True) as engine:
        project = Project.place(engine, room.path / "project")
        try:
            say("stack: up")
            project.compose("up", "--detach", "--no-build", *STACK)
            eventually(lambda: project.healthy("mcp-core"), "the stack is healthy")
            say("stack: healthy")
            yield project
        except BaseException:
            _tell(project)
            raise
        finally:
            say("stack: down")
            project.compose("down", "--volumes", "--timeout", "20", check=False)


def _tell(project: Project) -> None:
    print(project.compose("ps", check=False), file=sys.stderr)
    print(project.compose("logs", "--tail=25", check=False)[-20_000:], file=sys.stderr)


@pytest.fixture(scope="session")
def keys(project: Project, room: Room) -> dict[str, Path]:
    """Files of what a client needs."""
    return fetched(project, room)

"""An announced change is carried out and its outcome recorded; what cannot be recorded is taken back or owned up to."""

import asyncio

import pytest

from services.common.errors import Conflict, FailedPrecondition, Unavailable
from services.common.recorded_changes import RecordedChanges


class Scene:
    """A change, its record and its undoing, each of which may fail."""

    def __init__(self, *, recorded: bool = True, undone: Exception | None = None) -> None:
        self.steps: list[str] = []
        self._recorded, self._undone = recorded, undone

    async def apply(self) -> str:
        self.steps.append("apply")
        return "made"

    async def outcome(self, error: Exception | None) -> None:
        self.steps.append(f"outcome {error}" if error else "outcome")
        if not self._recorded:
            raise Unavailable("audit is away")

    async def undo(self) -> None:
        self.steps.append("undo")
        if self._undone:
            raise self._undone


@pytest.mark.req("R18")
async def test_a_change_is_answered_when_its_outcome_is_recorded() -> None:
    scene = Scene()
    assert await RecordedChanges().carry_out(scene.apply, scene.outcome, scene.undo) == "made"
    assert scene.steps == ["apply", "outcome"]


@pytest.mark.req("R18")
async def test_a_failure_is_recorded_and_raised_as_it_was() -> None:
    scene = Scene()

    async def apply() -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await RecordedChanges().carry_out(apply, scene.outcome, scene.undo)
    assert scene.steps == ["outcome no"]


@pytest.mark.req("R18")
async def test_what_cannot_be_recorded_is_taken_back() -> None:
    scene = Scene(recorded=False)
    with pytest.raises(Unavailable, match="Nothing was changed"):
        await RecordedChanges().carry_out(scene.apply, scene.outcome, scene.undo)
    assert scene.steps == ["apply", "outcome", "undo"]


@pytest.mark.req("R20")
@pytest.mark.parametrize("undone", [Unavailable("the store is away"), OSError("the disk")])
async def test_what_cannot_be_taken_back_either_is_not_to_be_repeated(undone: Exception) -> None:
    scene = Scene(recorded=False, undone=undone)
    with pytest.raises(FailedPrecondition, match="Do not repeat it"):
        await RecordedChanges().carry_out(scene.apply, scene.outcome, scene.undo)
    stands = Scene(recorded=False)
    with pytest.raises(FailedPrecondition, match="Do not repeat it"):
        await RecordedChanges().carry_out(stands.apply, stands.outcome)


@pytest.mark.req("R18")
async def test_a_caller_who_leaves_cancels_nothing_and_a_drain_waits() -> None:
    scene, changes, let = Scene(), RecordedChanges(), asyncio.Event()

    async def apply() -> str:
        await let.wait()
        return await scene.apply()

    caller = asyncio.create_task(changes.carry_out(apply, scene.outcome))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    let.set()
    await changes.drain()
    assert scene.steps == ["apply", "outcome"]

"""One real stack for the whole session, on free ports; tests that break things bring up their own."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import RunningStack
from tests.e2e.trusting import TrustingStack
from tests.fakes.otlp_receiver import OtlpReceiver


@pytest.fixture(scope="session")
def spans() -> Iterator[OtlpReceiver]:
    """What the shared stack exports: every trace of the whole session."""
    receiver = OtlpReceiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, spans: OtlpReceiver) -> Iterator[RunningStack]:
    """Shared: a test may create keys and change workloads in namespaces of its own choosing, nothing else."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # How often the SDK sends what it has; five seconds would be waiting.
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"
    running = RunningStack.up(tmp_path_factory.mktemp("stack") / "home", "--otlp", spans.address)
    del os.environ["OTEL_BSP_SCHEDULE_DELAY"]
    yield running
    running.down()


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """For the tests of one module that stop processes."""
    running = RunningStack.up(tmp_path_factory.mktemp("own") / "home")
    yield running
    running.down()
    shutil.rmtree(running.home)


@pytest.fixture(scope="session")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrustingStack]:
    """A stack whose edge knows an authority of client certificates; tests may have it trust issuers."""
    running = TrustingStack.up(tmp_path_factory.mktemp("trusting") / "home")
    yield running
    running.down()
    shutil.rmtree(running.home)

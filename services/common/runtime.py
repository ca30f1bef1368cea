"""The frame of every service process: arguments, logs, signals, exit codes."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import uvloop

from services.common import log
from services.common.config import Model, load_config
from services.common.runtime_errors import ConfigError, StartupError

__all__ = ["ConfigError", "StartupError", "announce_address", "run"]

C = TypeVar("C", bound=Model)


def run(
    main: Callable[[C], Awaitable[None]],
    model: type[C],
    prog: str,
    description: str,
    check: Callable[[C], None] | None = None,
) -> NoReturn:
    """Runs a service until SIGTERM or SIGINT, then cancels ``main`` and waits for it to clean up. ``check``: looks at
    what the configuration names, for ``--check-config``; opens no store and asks nobody.

    Exit codes: 0 stopped as asked or configuration valid, 1 crashed, 2 could not start; then standard error
    carries one line for each problem.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML configuration file",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration and the files that it names, but no store, and exit",
    )
    args = parser.parse_args()
    name = prog.rpartition(".")[2]
    try:
        config = load_config(model, args.config)
        if args.check_config:
            if check is not None:
                check(config)
            sys.stdout.write(f"{args.config}: valid\n")
            sys.exit(0)
        log.configure(name)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signalled(main(config)))
    except StartupError as error:
        sys.stderr.write(f"{name}: cannot start\n{error}\n")
        sys.exit(2)
    sys.exit(0)


async def _until_signalled(main: Awaitable[None]) -> None:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            log.get_logger("runtime").info("stops")
            # A repeated signal must not cut the cleanup short.
            stopping = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


def announce_address(path: Path | None, address: str) -> None:
    """Logs the bound ``host:port`` and writes it, whole or not at all, where the process's starter looks for it."""
    log.get_logger("runtime").info("serves", address=address)
    if path is None:
        return
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(address + "\n", encoding="utf-8")
    partial.replace(path)

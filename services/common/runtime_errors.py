"""Errors that end a process before it serves, with a message for the operator."""

from collections.abc import Sequence
from pathlib import Path


class StartupError(Exception):
    """The process cannot start; the message says why and names the next step."""


class ConfigError(StartupError):
    """A configuration or secret file is unusable; lists every problem found in it."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {problem}" for problem in self.problems))

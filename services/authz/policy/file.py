"""A policy from a path: the one place of this package that touches the disk."""

from pathlib import Path

from services.authz.policy.document import InvalidPolicy
from services.authz.policy.model import Policy
from services.authz.policy.parse import parse_policy


class PolicyError(Exception):
    """A policy file is unusable; the text has one line ``file:line:column: message`` for each problem."""


def load_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        PolicyError: it cannot be read, or is invalid; then it names everything that is wrong.
    """
    try:
        return parse_policy(path.read_bytes())
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error
    except InvalidPolicy as error:
        raise PolicyError("\n".join(problem.at(str(path)) for problem in error.problems)) from error

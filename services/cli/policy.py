"""`kubegate policy ...`: what an operator does with a policy file. Validating needs no stack."""

from pathlib import Path
from typing import Annotated

import typer

from services.authz.policy import PolicyError, load_policy
from services.authz.policy.document import InvalidPolicy
from services.authz.policy.model import Policy
from services.authz.policy.parse import parse_policy
from services.cli.options import Json
from services.cli.output import NEGATIVE, emit_json, fail

app = typer.Typer(no_args_is_help=True, help="Check policy files.")


@app.callback()
def policy() -> None:
    """Check policy files."""


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file (YAML).")], as_json: Json = False
) -> None:
    """Says everything that is wrong with a policy file.

    Exit codes: 0 valid, 1 invalid (every problem on standard output as file:line:column: message), 2 unreadable.
    """
    try:
        parsed = parse_policy(file.read_bytes())
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}")
    except InvalidPolicy as error:
        if as_json:
            problems = [{"line": each.line, "column": each.column, "message": each.message} for each in error.problems]
            emit_json({"file": str(file), "valid": False, "problems": problems})
        else:
            print("\n".join(each.at(str(file)) for each in error.problems))
        raise typer.Exit(NEGATIVE) from None
    if as_json:
        roles = [role.name for role in parsed.roles]
        emit_json({"file": str(file), "valid": True, "revision": parsed.revision, "roles": roles})
    else:
        print(f"{file}: valid, {len(parsed.roles)} roles, revision {parsed.revision}")


def load(file: Path) -> Policy:
    """The policy in a file; ends the command with 2, naming every problem, where there is none."""
    try:
        return load_policy(file)
    except PolicyError as error:
        fail(f"the policy is unusable\n{error}")

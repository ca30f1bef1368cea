"""Conditions in CEL, the Common Expression Language, by Google's own runtime (docs/adr/0007-cel-by-cel-expr.md).

Names and types are checked when a policy is loaded. CEL cannot loop, regular expressions are RE2, and the
runtime stops an expression that iterates too much, so an evaluation is bounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cel_expr_python import cel

from services.authz.policy.conditions import MAX_TEXT, InvalidCondition

_TEXT, _TEXTS = cel.Type.STRING, cel.Type.List(cel.Type.STRING)

LASTING = {
    "principal.issuer": _TEXT,
    "principal.subject": _TEXT,
    "principal.tenant": _TEXT,
    "principal.groups": _TEXTS,
    "principal.roles": _TEXTS,
    "principal.amr": _TEXTS,
    "principal.auth_type": _TEXT,
    "action.cluster": _TEXT,
    "action.group": _TEXT,
    "action.resource": _TEXT,
    "action.subresource": _TEXT,
    "action.verb": _TEXT,
    "action.namespace": _TEXT,
    "action.name": _TEXT,
    "action.replicas": cel.Type.INT,
}
"""What a condition may read that stays the same for a principal and an action."""

PASSING = {
    "principal.auth_time": cel.Type.TIMESTAMP,
    "request.time": cel.Type.TIMESTAMP,
    "request.source": _TEXT,
}
"""What a condition may read that differs from request to request (R11); an API key is proven at each."""

_LASTING = cel.NewEnv(variables=LASTING)
_ALL = cel.NewEnv(variables=LASTING | PASSING)


@dataclass(frozen=True, slots=True)
class CelCondition:
    """A checked CEL expression of type bool."""

    text: str
    volatile: bool
    _expression: cel.Expression = field(compare=False, repr=False)

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """Its answer; None where evaluation fails, a value is missing, or the answer is no boolean."""
        try:
            answer = self._expression.eval(data=values).value()
        except Exception:  # noqa: BLE001 - the runtime raises various types; each of them is "no answer"
            return None
        # An error comes as a text, not as an exception.
        return answer if isinstance(answer, bool) else None


def compile_condition(text: str) -> CelCondition:
    """Compiles and type-checks an expression.

    Raises:
        InvalidCondition: it is too long, not CEL, reads an unknown name, or is no boolean.
    """
    if len(text) > MAX_TEXT:
        raise InvalidCondition(f"the condition is longer than {MAX_TEXT} characters")
    try:
        expression = _ALL.compile(text)
    except Exception as error:  # noqa: BLE001 - as above; here each of them means "not usable"
        raise InvalidCondition(_reason(str(error))) from None
    if expression.return_type() != cel.Type.BOOL:
        kind = expression.return_type().name().lower()
        raise InvalidCondition(f"the condition must be true or false, not of type {kind}")
    return CelCondition(text, _reads_request(text), expression)


def _reads_request(text: str) -> bool:
    try:
        _LASTING.compile(text)
    except Exception:  # noqa: BLE001 - it compiled with these names, so it is them that it reads
        return True
    return False


def _reason(text: str) -> str:
    """The first problem that the compiler reports, as ``reason (at line:column of the condition)``."""
    first = text.removeprefix("INVALID_ARGUMENT: ").split("\n", 1)[0].removeprefix("ERROR: <input>:")
    line, _, rest = first.partition(":")
    column, _, message = rest.partition(": ")
    if not (line.isdigit() and column.isdigit()):
        return "the condition is not valid CEL"
    message = message.removesuffix(" (in container '')").partition(" expecting {")[0]
    unknown = message.removeprefix("undeclared reference to ")
    if unknown != message:
        message = f"the condition reads the unknown name {unknown}; there are {', '.join(LASTING | PASSING)}"
    return f"{message} (at {line}:{column} of the condition)"

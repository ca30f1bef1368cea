"""Structured logs on standard error: one JSON object a line, never a secret."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from services.common.telemetry.metrics import LOGGED
from services.common.telemetry.trace_context import CURRENT

_SECRET_NAME = re.compile(r"(?i)(password|secret|token|credential|authorization|api_?key|otp|pepper)")
_SECRET_VALUE = re.compile(r"kg_[0-9A-Za-z]+_[0-9A-Za-z]+|eyJ[\w-]+\.[\w-]+\.[\w-]*|-----BEGIN[^-]*PRIVATE KEY-----")


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET_NAME.search(key) and not key.endswith(("_file", "_id")):
            event[key] = "[redacted]"
        elif isinstance(value, str):
            event[key] = _SECRET_VALUE.sub("[redacted]", value)
    return event


LAST_ERROR: dict[str, str] = {}
"""When, where and which event was last logged as an error; no text of its."""

_COUNTED = frozenset({"warning", "error", "critical"})


def last_error() -> dict[str, str]:
    """The last error that was logged: ``at``, ``component``, ``event``; empty where there was none."""
    return dict(LAST_ERROR)


def _count(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    level = event.get("level")
    if level in _COUNTED:
        LOGGED.labels(level).inc()
        if level != "warning":
            LAST_ERROR.update(
                at=str(event.get("timestamp", "")),
                component=str(event.get("component") or event.get("logger") or "library"),
                event=str(event["event"])[:120] if "component" in event else "error of a library",
            )
    return event


def _place(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    here = CURRENT.get()
    if here is not None:
        event["trace_id"], event["span_id"] = here.trace_id, here.span_id
    return event


def configure(service: str, level: int = logging.INFO) -> None:
    """Sends the process's logs, the standard library's included, through the redactor to standard error."""
    for name in sorted(_COUNTED):
        LOGGED.labels(name)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _place,
    ]

    def name_service(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    structlog.configure(
        processors=[
            *shared,
            name_service,
            _redact,
            _count,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                name_service,
                _redact,
                _count,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``component=name``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


class Outage:
    """Says once that something no longer works and once that it works again, however often it is tried meanwhile."""

    def __init__(
        self,
        logger: structlog.typing.FilteringBoundLogger,
        lost: str,
        restored: str,
        *,
        level: int = logging.WARNING,
        **names: str,
    ) -> None:
        """``lost`` and ``restored`` are the two lines, ``level`` is that of the first; ``names`` stand in both."""
        self._log = logger
        self._lost, self._restored, self._level, self._names = lost, restored, level, names
        self._on = False

    def failed(self, **details: str) -> None:
        """It did not work; ``details`` of the first time are logged."""
        if not self._on:
            self._log.log(self._level, self._lost, **self._names, **details)
        self._on = True

    def worked(self) -> None:
        """It did."""
        if self._on:
            self._log.info(self._restored, **self._names)
        self._on = False

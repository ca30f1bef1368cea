"""Redaction of a text that is still being written: no line leaves before what could make a secret of it is known.

The rules are those of ``redaction``, which look at whole lines; pieces are put together to lines first. A private key
in PEM spans lines, and its end may be what tells that it is one, where the text began within it: lines that look like
its body are held back until the line after them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from services.mcp_core.redaction import MARK, PRIVATE_KEY, LineRedactor, without_escapes

_BEGIN = re.compile(rf"-----BEGIN {PRIVATE_KEY}")
_END = re.compile(rf"-----END {PRIVATE_KEY}")

# The last word of a line of PEM: base64, which soon has letters of both cases; hashes in hexadecimal have not.
_BODY = re.compile(r"(?:^|[\s\"'])(?=[a-z0-9+/]*[A-Z])(?=[A-Z0-9+/]*[a-z])[A-Za-z0-9+/]{32,}={0,2}\s*$")
_LAST = re.compile(r"(?:^|[\s\"'])[A-Za-z0-9+/]{1,64}={0,2}\s*$")


class StreamRedactor:
    """Takes pieces of UTF-8, gives redacted lines. As slow as ``redact``: a large piece is best fed beside the event
    loop."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = LineRedactor()
        self._begun = ""
        self._within_key = False
        self._held: list[str] = []
        self._last_held = False

    def feed(self, piece: bytes) -> list[str]:
        """The lines that may leave now."""
        *whole, self._begun = (self._begun + self._decoder.decode(piece)).split("\n")
        return [clean for line in whole for clean in self._next(line)]

    def end(self, *, whole: bool) -> list[str]:
        """What is left. ``whole``: the text ended by itself; else its last line may be half of a secret, and goes."""
        left = [*self._next(self._begun)] if whole and self._begun else []
        # Whether these are of a key nobody will say any more.
        return [*left, *([MARK] if self._held else [])]

    def _next(self, line: str) -> Iterator[str]:
        line = without_escapes(line)
        if "PRIVATE KEY" in line or self._within_key:
            line = self._without_key(line)
            if not line.strip():
                return
        elif _BODY.search(line) and not self._last_held:
            self._held.append(line)
            return
        elif self._held and not self._last_held and _LAST.search(line):
            # The body ends with a shorter line, and there is only one.
            self._held.append(line)
            self._last_held = True
            return
        elif self._last_held:
            # It was none; what comes now may be.
            yield from self._released()
            yield from self._next(line)
            return
        yield from self._released()
        yield self._lines.redact(line)

    def _released(self) -> Iterator[str]:
        held, self._held, self._last_held = self._held, [], False
        yield from map(self._lines.redact, held)

    def _without_key(self, line: str) -> str:
        """A line without what it has of private keys."""
        kept = ""
        while True:
            if self._within_key:
                end = _END.search(line)
                if end is None:
                    return kept
                self._within_key, line = False, line[end.end() :]
            begin, end = _BEGIN.search(line), _END.search(line)
            if end is not None and (begin is None or end.start() < begin.start()):
                # It began before this text, and what was held back is its body.
                self._held, self._last_held = [], False
                kept, line = MARK, line[end.end() :]
            elif begin is not None:
                self._within_key, kept, line = True, f"{kept}{line[: begin.start()]}{MARK}", line[begin.end() :]
            else:
                return kept + line

"""Redaction of a text that is still being written: no line leaves before what could make a secret of it is known.

The rules are those of ``redaction``, which look at whole lines; pieces are put together to lines first. A private key
in PEM spans lines, and its end may be what tells that it is one, where the text began within it: from a line that may
be of its body on, lines are held back, whatever comes in between, until its end shows, or ``CALM_LINES`` lines or
``CALM_SECONDS`` have passed without another such line.

What remains: where nobody saw the begin, a body whose lines come further apart than that, or have less than ``WORD``
characters of base64; and what was told before the end was written, as by a reading without following.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Iterator

from services.mcp_core.redaction import MARK, PRIVATE_KEY, LineRedactor, without_escapes

CALM_LINES = 12
"""So many lines that cannot be of a key let go what was held back."""

CALM_SECONDS = 3.0
"""As does this time: whoever writes a key writes its lines at once."""

HELD = 64 * 1024
"""Most characters that are held back, then the oldest go: the largest key in use has a fifth of it."""

LINE = 16 * 1024
"""Most characters of a line; the rest is cut."""

SEAM = 256
"""Characters before a cut that go too: it may have gone through a secret."""

WORD = 32
WIDE = 56

_BEGIN = re.compile(rf"-----BEGIN {PRIVATE_KEY}")
_END = re.compile(rf"-----END {PRIVATE_KEY}")
_WORDS = re.compile(rf"[A-Za-z0-9+/]{{{WORD},}}")
_NO_LETTER = re.compile(r"[0-9+]")
_HEADERS = ("Proc-Type:", "DEK-Info:")


class StreamRedactor:
    """Takes pieces of UTF-8, gives redacted lines. As slow as ``redact`` on ``pending`` characters and the piece: what
    is large is best fed beside the event loop."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = LineRedactor()
        self._begun = ""
        self._cut = False  # Whether the line that has begun is longer than LINE; then `_begun` is its newest part.
        self._within_key = False
        self._held: deque[tuple[str, bool]] = deque()  # With each line, whether it may be of a body.
        self._size = 0
        self._calm = CALM_LINES  # Lines since the last that may be of a body.
        self._now = self._seen_at = 0.0  # When the last piece came, and the last line that may be of a body.

    @property
    def pending(self) -> int:
        """Characters that have come and have not left."""
        return len(self._begun) + self._size

    def after(self, text: str, now: float = 0.0) -> None:
        """Takes up what stood before and has been told: nothing of it leaves, or is of a secret any more."""
        self._now = now
        for line in text.split("\n"):
            for _ in self._next(line):
                pass
            for held, _ in self._held:
                self._lines.redact(held)
            self._forget()

    def feed(self, piece: bytes, now: float = 0.0) -> list[str]:
        """The lines that may leave now. now: seconds of any clock; an empty piece lets go what was held for long."""
        self._now = now
        clean: list[str] = []
        *whole, begun = self._decoder.decode(piece).split("\n")
        for part in whole:
            clean += self._add(part)
            if not self._cut:
                clean += self._next(self._begun)
            self._begun, self._cut = "", False
        clean += self._add(begun)
        if self._held and now - self._seen_at >= CALM_SECONDS:
            clean += self._released()
        return clean

    def end(self, *, whole: bool) -> list[str]:
        """What is left. ``whole``: the text ended by itself, so no key's end will come; else whether what was held
        is of a key nobody will say any more, and the last line may be half of a secret: both go."""
        if whole:
            left = [*self._next(self._begun)] if self._begun and not self._cut else []
            return [*left, *self._released()]
        left, after_body = [], False
        for line, body in self._held:
            # The last line of a body is a shorter one.
            if not (body or after_body):
                left.append(self._lines.redact(line))
            elif left[-1:] != [MARK]:
                left.append(MARK)
            after_body = body
        self._forget()
        return left

    def _add(self, part: str) -> Iterator[str]:
        """More of the line that has begun."""
        for at in range(0, len(part), LINE):
            self._begun += part[at : at + LINE]
            if not self._cut and len(self._begun) > LINE:
                yield from self._next(self._begun[: LINE - SEAM] + "…")
                self._begun, self._cut = self._begun[LINE - SEAM :], True
            if self._cut:
                # A key may begin or end in what is left out. A marker that is seen twice says the same twice.
                self._without_key(without_escapes(self._begun))
                self._begun = self._begun[-SEAM:]

    def _next(self, line: str) -> Iterator[str]:
        line = without_escapes(line)
        if self._within_key or _BEGIN.search(line) or _END.search(line):
            line = self._without_key(line)
            if not line.strip():
                return
            yield from self._released()
            yield self._lines.redact(line)
            return
        body = _may_be_body(line)
        if body:
            self._calm, self._seen_at = 0, self._now
        elif line.strip():
            self._calm += 1
        if self._calm >= CALM_LINES:
            yield from self._released()
            yield self._lines.redact(line)
            return
        self._held.append((line, body))
        self._size += len(line) + 1
        while self._size > HELD:
            oldest, _ = self._held.popleft()
            self._size -= len(oldest) + 1
            yield self._lines.redact(oldest)

    def _released(self) -> Iterator[str]:
        held = [line for line, _ in self._held]
        self._forget()
        self._calm = CALM_LINES
        yield from map(self._lines.redact, held)

    def _forget(self) -> None:
        self._held.clear()
        self._size = 0

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
                self._forget()
                self._calm = CALM_LINES
                kept, line = MARK, line[end.end() :]
            elif begin is not None:
                self._within_key, kept, line = True, f"{kept}{line[: begin.start()]}{MARK}", line[begin.end() :]
            else:
                return kept + line


def _may_be_body(line: str) -> bool:
    """Whether a line has a word of base64 that is as long as in PEM: one of hexadecimal, or of a language, is none."""
    return line.lstrip().startswith(_HEADERS) or any(
        word != word.lower() and word != word.upper() and (len(word) >= WIDE or _NO_LETTER.search(word) is not None)
        for word in _WORDS.findall(line)
    )

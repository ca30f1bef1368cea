"""Takes obvious secrets out of text from the cluster, before it is recorded, searched or answered (R26).

Pure, and linear in the length of the text whatever the text is: what one start of a rule has scanned, the next
scans again for a bounded stretch only. It errs on the side of removing too much. What it knows: private keys in
PEM, credentials in `Authorization` and cookie headers, values of keys such as `password` (lists, XML elements, a
variable's `value` and blocks of YAML too), credentials within URLs, and tokens whose shape gives them away.
"""

from __future__ import annotations

import asyncio
import re

MARK = "[redacted]"

# Terminal escapes (CSI, OSC) and control characters but tab and newline: they could split or hide a secret.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

PRIVATE_KEY = r"[A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
# A tail may begin or end within a key.
_PEM = re.compile(rf"-----BEGIN {PRIVATE_KEY}.*?(?:-----END {PRIVATE_KEY}|\Z)", re.DOTALL)
_PEM_REST = re.compile(rf"\A(?:(?!-----BEGIN ).)*?-----END {PRIVATE_KEY}", re.DOTALL)

_SHAPE_STARTS = (
    "eyJ",
    "kg_",
    "gh",
    "glpat-",
    "xox",
    "AKIA",
    "ASIA",
    "AIza",
    "k_",
    "sk-",
    "npm_",
    "dckr",
    "hvs.",
    "AGE-",
    "SG.",
    "$apr1$",
    "$2",
    "$5$",
    "$6$",
    "$argon2",
)
_SHAPES = re.compile(
    r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|kg_[0-9A-Za-z]{1,64}_[0-9A-Za-z]{20,}"
    r"|gh[opsur]_[0-9A-Za-z]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|[rs]k_(?:live|test)_[0-9A-Za-z]{16,}|sk-[\w-]{20,}|npm_[0-9A-Za-z]{30,}|dckr_pat_[\w-]{20,}"
    r"|hvs\.[\w-]{20,}|AGE-SECRET-KEY-1[0-9A-Z]{50,}|SG\.[\w-]{16,}\.[\w-]{16,}"
    r"|\$(?:apr1|2[abxy]|5|6|argon2(?:id?|d))\$[^\s:\"']{8,}"
)

# `scheme://user:password@` and `scheme://token@`.
_URL = re.compile(r"(://)(?:[^\s/:@\"'<>]*:[^\s/\"'<>]+|[^\s/:@\"'<>]{8,})@")

# What stands before the name in a longer one (`DB_PASSWORD`, `accessToken`) stays and need not be matched.
SECRET_NAME = (
    r"(?:passw(?:or)?d|passphrase|(?<![A-Za-z])(?:pass|pwd|dsn|auth|sig)|secret|token|credentials?|signature"
    r"|(?:api|access|account|secret|private|signing|encryption|master|ssh|auth)[_-]?key(?:[_-]?(?:id|data))?"
    r"|connection[_-]?string|client-key-data)"
)

# A quoted value ends at its quote, also where quotes are escaped (JSON in JSON); a bare one at a separator.
# A list or object goes whole; the mark stays what it is. Every quantifier within another one's reach is bounded.
_VALUE = (
    r"(?:(?P<esc>\\{1,16})(?P<quote>[\"'])(?:(?!(?P=esc)(?P=quote)).)*(?:(?P=esc)(?P=quote))?|\\{17,}[\"'].*"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?"
    r"|\[redacted\](?=[\s,;&}\])\"'<]|$)"
    r"|[\[{][\[{\s]{0,16}(?=\\{0,16}[\"'])(?:\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|[^\"'\]}])*[\]}]?"
    r"|(?:(?:bearer|basic)\s+)?[^\s\"'&;]+)"
)

_QUOTE = r"\\{0,64}[\"']?"
_SIGN = rf"{_QUOTE}\s{{0,64}}[:=]\s{{0,64}}"

_WORDS = (
    "pass",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "connection",
    "dsn",
    "auth",
    "sig",
    "basic ",
    "bearer ",
    "cookie",
    "mysql",
    "redis-cli",
    "curl",
)

# Which of these strings, lower case, a line must hold for the rule to be tried: regular expressions are the slow part.
_RULES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    # Headers: to the end of the line or the closing quote.
    (
        ("authorization", "cookie"),
        re.compile(
            # A quote right after `name=` belongs to the value.
            r"\b(authorization|cookie)(\\{0,16}[\"']?\s{0,64}[:=]\s{0,64}\\{0,16}[\"']?)"
            r"(?:[^\"'\\]|(?<=[\w-]=)\\{0,16}[\"'][^\"'\\]*\\{0,16}[\"']?)+",
            re.IGNORECASE,
        ),
        rf"\1\2{MARK}",
    ),
    # A line that is nothing but `name: some words`, as in YAML, and pass phrases anywhere.
    (
        (": ", ":\t"),
        re.compile(
            rf"(^[ \t-]{{0,64}}[\w.-]{{0,64}}{SECRET_NAME}:[ \t]+|pass(?:word|phrase):[ \t]+)[^\s\"'].*$", re.IGNORECASE
        ),
        rf"\1{MARK}",
    ),
    (
        ("=", ":"),
        re.compile(rf"({SECRET_NAME}{_QUOTE}\s{{0,64}}(?:=>|[:=])\s{{0,64}}){_VALUE}", re.IGNORECASE),
        rf"\1{MARK}",
    ),
    (("<",), re.compile(rf"(<[\w:.-]{{0,64}}{SECRET_NAME}[^<>]{{0,128}}>)[^<]+", re.IGNORECASE), rf"\1{MARK}"),
    # `name: DB_PASSWORD` and its `value`, as in the environment of a container.
    (
        ("value",),
        re.compile(
            rf"(\bname{_SIGN}{_QUOTE}[\w.-]{{0,64}}{SECRET_NAME}[\w.-]{{0,64}}{_QUOTE}\s{{0,64}},\s{{0,64}}{_QUOTE}value{_SIGN}){_VALUE}",
            re.IGNORECASE,
        ),
        rf"\1{MARK}",
    ),
    (
        ("-",),
        re.compile(
            rf"((?<![\w-])--?[a-z0-9-]{{0,40}}?(?:{SECRET_NAME}|requirepass)\s{{1,64}})(?!-){_VALUE}", re.IGNORECASE
        ),
        rf"\1{MARK}",
    ),
    # Options of well-known programs that are too short to tell anything by themselves.
    (
        (" -",),
        re.compile(
            r"(\bmysql\w{0,32}\b.{0,400}?\s-p(?=\S)|\bsshpass\s{1,64}-p\s?|\bredis-cli\b.{0,400}?\s-a\s{1,64}"
            r"|\bcurl\b.{0,400}?\s(?:-u|--user)[ =]?(?=[^\s:]{0,256}:))[^\s]+"
        ),
        rf"\1{MARK}",
    ),
    (("login ",), re.compile(r"(\blogin\s{1,64}\S{1,256}\s{1,64}password\s{1,64})\S+"), rf"\1{MARK}"),
    # Without a header's name: only what does not look like a word of a sentence.
    (
        ("bearer ", "basic ", "apikey "),
        re.compile(r"\b(bearer|basic|apikey) +(?=[A-Za-z]*[\d._~+/=-]|[A-Za-z]{16})[\w.~+/=-]{6,}", re.IGNORECASE),
        rf"\1 {MARK}",
    ),
)

# What leaves its value to the lines below: a block scalar of YAML, and the name of a variable.
_REST = r"[\w.-]{0,64}[\"']?\s{0,64}"
_BLOCK = re.compile(rf"{SECRET_NAME}{_REST}:\s{{0,64}}[|>][\d+-]{{0,3}}\s{{0,64}}(?:#.*)?$", re.IGNORECASE)
_NAMED = re.compile(
    rf"\bname[\"']?\s{{0,64}}:\s{{0,64}}[\"']?[\w.-]{{0,64}}{SECRET_NAME}{_REST},?\s{{0,64}}$", re.IGNORECASE
)
_NAMED_VALUE = re.compile(r"([ \t]{0,64}[\"']?value[\"']?\s{0,64}:\s{0,64})[^\s,].*$", re.IGNORECASE)

LARGE = 16 * 1024
"""Characters from which on a text is redacted in a thread, so that the event loop stays free."""


async def redact_aside(text: str) -> str:
    """As ``redact``; a large text does not hold up the other requests."""
    return redact(text) if len(text) < LARGE else await asyncio.to_thread(redact, text)


def redact(text: str) -> str:
    """The text without terminal escapes, control characters and obvious secrets."""
    text = without_escapes(text)
    if "PRIVATE KEY" in text:
        text = _PEM_REST.sub(MARK, _PEM.sub(MARK, text))
    text = _without_shapes(text)
    lower = text.lower()
    if any(word in lower for word in _WORDS):
        text = "\n".join(map(_Lines().redact, text.split("\n")))
    return text


def without_escapes(text: str) -> str:
    """The text without terminal escapes and control characters."""
    return text if text.replace("\n", "").replace("\t", "").isprintable() else _ESCAPES.sub("", text)


def _without_shapes(text: str) -> str:
    if any(start in text for start in _SHAPE_STARTS):
        text = _SHAPES.sub(MARK, text)
    return _URL.sub(rf"\1{MARK}@", text) if "://" in text else text


class LineRedactor:
    """The rules of ``redact`` for a text whose lines come one after the other, but those for private keys in PEM."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def redact(self, line: str) -> str:
        """The next line, which has no escapes any more."""
        return self._lines.redact(_without_shapes(line))


class _Lines:
    """The rules for lines, with what one line says of the next."""

    def __init__(self) -> None:
        self._block = -1  # The indentation of the key whose block of lines goes.
        self._named = False

    def redact(self, line: str) -> str:
        content = line.lstrip(" \t")
        if self._block >= 0 and (not content or _indentation(line) > self._block):
            return line[: len(line) - len(content)] + MARK if content else line
        self._block = -1
        lower = line.lower()
        value = _NAMED_VALUE.match(line) if self._named else None
        self._named = "name" in lower and _NAMED.search(line) is not None
        if value:
            return value[1] + MARK
        if ("|" in line or ">" in line) and _BLOCK.search(line):
            self._block = _indentation(line)
        return _redact_line(line, lower)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" \t-"))


def _redact_line(line: str, lower: str) -> str:
    if not any(word in lower for word in _WORDS):
        return line
    for needed, pattern, replacement in _RULES:
        if any(part in lower for part in needed):
            line = pattern.sub(replacement, line)
    return line

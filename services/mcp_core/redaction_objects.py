"""Takes secrets out of whole Kubernetes objects, before anything reads, selects or answers them (R26).

What text alone cannot tell follows from the place: everything in a Secret, values under names such as `password`,
the word after `--token`, JSON within annotations, base64. References to secrets (names, keys) stay. It errs on the
side of removing too much, and drops what is bulk without meaning to a reader (managedFields, last-applied).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from services.mcp_core.redaction import MARK, SECRET_NAME, redact

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

MAX_DEPTH = 40
"""Deepest nesting that is shown; what lies deeper is replaced."""

_SECRET_KEY = re.compile(
    rf"(?:{SECRET_NAME}|(?:^|[_.-])key|jwt|bearer|cookie|salt|otp|passcode|requirepass|masterauth|htpasswd|netrc|pgpass"
    r"|kubeconfig|dockercfg|dockerconfigjson|id_(?:rsa|dsa|ecdsa|ed25519))s?$",
    re.IGNORECASE,
)

# `key` as a whole names an entry (secretKeyRef), not a secret.
_HARMLESS_KEYS = frozenset(
    {"key", "name", "namespace", "path", "kind", "apiVersion", "optional", "secretName", "items", "mode", "defaultMode"}
)

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_DENSE = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_BLOCK = re.compile(
    rf"^([ \t-]{{0,64}}[\w.-]{{0,64}}{SECRET_NAME}:[ \t]{{0,64}}[|>][+-]?\d?[ \t]{{0,64}}\n)((?:[ \t]+.*(?:\n|\Z))+)",
    re.IGNORECASE | re.MULTILINE,
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under a name is taken for a secret."""
    return name not in _HARMLESS_KEYS and _SECRET_KEY.search(name) is not None


def redact_object(obj: Mapping[str, Any], kind: str = "") -> dict[str, Any]:
    """An object of the cluster without secrets. kind: for items of lists, which do not say their own."""
    shown = _mapping({"kind": kind, **obj} if kind else obj, 0, sensitive=False)
    if kind and "kind" not in obj:
        del shown["kind"]
    return shown


def redact_command(words: Sequence[Any]) -> list[str]:
    """A command line. Where a secret is told only by the words around it, the line comes as one text."""
    texts = [str(word) for word in words]
    each = [redact_value(text) for text in texts]
    line = redact(" ".join(texts))
    return each if line == " ".join(map(redact, texts)) else [_dense(line)]


def redact_named(name: str, value: str) -> str:
    """A value that stands under a name: an environment variable, an entry of a ConfigMap, an annotation."""
    return MARK if _SECRET_KEY.search(name) and value else redact_value(value)


def redact_value(text: str, depth: int = 0) -> str:
    """A text from an object: JSON and base64 within it are looked into."""
    if depth > 3:
        return MARK
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            pass
        else:
            clean = _value(value, "", depth + 1, sensitive=False)
            return text if clean == value else json.dumps(clean, ensure_ascii=False, separators=(",", ":"))
    if _BASE64.fullmatch(stripped) and _hides(stripped, depth):
        return MARK
    if "\n" in text:
        text = _BLOCK.sub(rf"\1  {MARK}\n", text)
    return _dense(redact(text))


def _hides(text: str, depth: int) -> bool:
    """Whether base64 holds a text that would itself be redacted."""
    try:
        inner = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        return False
    return inner.replace("\n", "").isprintable() and redact_value(inner, depth + 1) != inner


def _dense(text: str) -> str:
    return _DENSE.sub(lambda found: MARK if _random(found[0]) else found[0], text)


def _random(word: str) -> bool:
    """Whether a word looks drawn at random: mixed case and digits, hardly a character twice. No digest, no path."""
    counts = Counter(word)
    mixed = any(map(str.isdigit, word)) and any(map(str.isupper, word)) and any(map(str.islower, word))
    if not mixed or word.count("/") > len(word) // 10 or word.count("-") > 3:
        return False
    return -sum(count / len(word) * math.log2(count / len(word)) for count in counts.values()) > 3.9


def _mapping(node: Mapping[str, Any], depth: int, *, sensitive: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    secret = node.get("kind") == "Secret"
    # {"name": "DB_PASSWORD", "value": ...}, in containers and in custom kinds alike.
    name = node.get("name")
    named = isinstance(name, str) and _SECRET_KEY.search(name) is not None
    for key, value in node.items():
        if key in ("managedFields", LAST_APPLIED):
            continue
        shown = key if key.isidentifier() else redact(key)
        if secret and key in ("data", "stringData") and isinstance(value, Mapping):
            result[shown] = dict.fromkeys(value, MARK)
        elif key == "binaryData" and isinstance(value, Mapping):
            result[shown] = {entry: f"[{len(str(data)) * 3 // 4} bytes]" for entry, data in value.items()}
        elif key in ("command", "args") and isinstance(value, list):
            result[shown] = redact_command(value)
        elif key == "value" and named and isinstance(value, str | int | float):
            result[shown] = MARK if value else value
        else:
            hides = sensitive or _SECRET_KEY.search(key) is not None
            result[shown] = _value(value, key, depth + 1, sensitive=hides and key not in _HARMLESS_KEYS)
    return result


def _value(value: Any, key: str, depth: int, *, sensitive: bool) -> Any:
    if depth > MAX_DEPTH:
        return MARK
    if isinstance(value, Mapping):
        return _mapping(value, depth, sensitive=sensitive)
    if isinstance(value, list):
        return [_value(one, key, depth + 1, sensitive=sensitive) for one in value]
    if value is None or isinstance(value, bool):
        return value
    if sensitive:
        return MARK if value != "" else value
    return redact_value(value) if isinstance(value, str) else value

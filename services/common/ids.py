"""Identifiers: UUID version 7 (RFC 9562, section 5.7), sortable by time."""

import secrets
import time
from uuid import UUID


def uuid7() -> str:
    """A new UUID version 7 in its text form."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))

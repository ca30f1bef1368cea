"""Verifies a store, its mirror, or an export, offline: no service is asked and nothing is written.

A record is intact when its bytes are canonical, hash to its leaf, stand at their own leaf index, and agree
with every derived column; the log is intact when its leaves lead to every signed root that was stored with a
commit (R23). The first thing that is altered, missing or out of place ends the check and is named.

What this cannot see: whoever holds the signing key can write another history; and a store cut back to an
earlier signed root looks whole by itself (its mirror, an export, a kept checkpoint or a witness shows that it is not).
"""

from services.audit.checkpoint import BadCheckpoint, OtherKey
from services.audit.receipt import BadReceipt, Proven, check
from services.audit.verify.files import LogFiles, kept_heads, leaves, log_files, public_key, verify_log
from services.audit.verify.findings import Altered, Report, Unreadable, signed_otherwise
from services.audit.verify.lines import Leaves, prove, size_of, verify_export, verify_lines
from services.audit.verify.store import verify_store
from services.audit.witness import Cosigner

__all__ = [
    "Altered",
    "BadCheckpoint",
    "BadReceipt",
    "Cosigner",
    "Leaves",
    "LogFiles",
    "OtherKey",
    "Proven",
    "Report",
    "Unreadable",
    "check",
    "kept_heads",
    "leaves",
    "log_files",
    "prove",
    "public_key",
    "signed_otherwise",
    "size_of",
    "verify_export",
    "verify_lines",
    "verify_log",
    "verify_store",
]

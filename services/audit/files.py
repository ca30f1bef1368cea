"""What an export looks like as a file: JSON Lines with a proof beside it, or CSV for spreadsheets."""

import base64
import csv
import io
import json
from collections.abc import Sequence

from services.audit import canonical
from services.audit.ports import Proof, Record

COLUMNS = (
    "timestamp", "event_id", "event_type", "user", "user_source", "action", "resource", "namespace", "result",
    "error_message", "duration_ms", "tenant", "request_id", "writer", "sequence", "metadata",
)  # fmt: skip
"""Columns of the CSV; ``metadata`` is JSON."""

_RUN = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of a cell that a spreadsheet takes for a formula, in full width too."""


def json_lines(records: Sequence[Record]) -> bytes:
    """One canonical event a line."""
    return b"".join(record.canonical_json + b"\n" for record in records)


class CsvFile:
    """CSV with a heading, in parts. What others wrote must not run in the reader's spreadsheet."""

    def __init__(self) -> None:
        self._heading = True

    def part(self, records: Sequence[Record]) -> bytes:
        """The next rows."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\r\n")
        if self._heading:
            writer.writerow(COLUMNS)
            self._heading = False
        for record in records:
            fields = canonical.decode(record.canonical_json)
            fields["metadata"] = json.dumps(fields["metadata"], ensure_ascii=False, sort_keys=True)
            writer.writerow(_cell(fields.get(column, "")) for column in COLUMNS)
        return text.getvalue().encode()


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_RUN) else text


class ProofFile:
    """The proof of a JSON Lines export: the signed root, and how each event leads to it; JSON, in parts."""

    def __init__(self) -> None:
        self._begun = False

    def part(self, records: Sequence[Record], proofs: Sequence[Proof]) -> bytes:
        """The next events."""
        text = ""
        for record, proof in zip(records, proofs, strict=True):
            if not self._begun:
                text += f'{{"checkpoint": {json.dumps(proof.checkpoint)},\n"inclusion": ['
            text += "\n" if not self._begun else ",\n"
            self._begun = True
            text += json.dumps([record.sequence, [base64.b64encode(each).decode() for each in proof.hashes]])
        return text.encode()

    def end(self, checkpoint: str) -> bytes:
        """What closes it; the whole of it where there was no event."""
        if self._begun:
            return b"\n]}\n"
        return f'{{"checkpoint": {json.dumps(checkpoint)},\n"inclusion": [\n]}}\n'.encode()

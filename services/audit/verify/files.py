"""Where a log lies and whose it is, from the configuration of the audit service."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.checkpoint import BadKey, NoteSigner, NoteVerifier, origin_of
from services.audit.config import Config
from services.audit.verify.findings import Report, Unreadable
from services.audit.verify.lines import Leaves
from services.audit.verify.store import verify_store
from services.common.config import load_config, read_secret
from services.common.runtime_errors import ConfigError


@dataclass(frozen=True, slots=True)
class LogFiles:
    """A log on this machine: its store (a file, or the URL of a database and the id of the log there), its mirror,
    its public key, and its tree heads that were published or witnessed, by where they lie."""

    store: Path | None
    database: str = field(repr=False)
    log_id: str
    mirror: Path
    verifier: NoteVerifier
    heads: Mapping[str, str]


def log_files(config_file: Path, vkey: str = "") -> LogFiles:
    """The files that a configuration names. The key is ``vkey`` (``name+hash+key``) where it is given, else the
    public half of the configured signing key.

    Raises:
        Unreadable: the configuration or the key cannot be used.
    """
    try:
        config = load_config(Config, config_file)
    except ConfigError as error:
        raise Unreadable(f"the configuration of the audit service cannot be used: is --home right?\n{error}") from error
    heads = _heads([config.published, *(witness.file for witness in config.witnesses)])
    if vkey:
        return LogFiles(config.store, _database(config), config.log_id, config.mirror, public_key(vkey), heads)
    try:
        signer = NoteSigner.from_pem(origin_of(config.log_id), read_secret(config.signing_key_file))
    except (ConfigError, BadKey) as error:
        raise Unreadable(f"{error}; name the public key of the log with --key") from error
    return LogFiles(config.store, _database(config), config.log_id, config.mirror, signer.verifier, heads)


def verify_log(log: LogFiles) -> Report:
    """Checks the whole log with its mirror and tree heads, in whichever engine it lies. Raises as ``verify_store``."""
    if log.store is not None:
        return verify_store(log.store, log.verifier, log.mirror, log.heads)
    return _on_database(log)(log.database, log.log_id, log.verifier, log.mirror, log.heads)


def leaves(log: LogFiles) -> Leaves:
    """The leaf hashes of a log, which is checked first, its tree heads included. Raises as ``verify_store``."""
    if log.store is not None:
        return Leaves.of_store(log.store, log.verifier, log.heads)
    raise Unreadable("beside this file lies no proof, and the log is in PostgreSQL; export it with its proof")


def _on_database(log: LogFiles) -> Callable[..., Report]:
    try:
        from services.audit.verify.database import verify_database
    except ImportError as error:
        raise Unreadable("the log lies in PostgreSQL; install kubegate[audit] to read it") from error
    return verify_database


def _database(config: Config) -> str:
    if config.database_url_file is None:
        return ""
    try:
        return read_secret(config.database_url_file).decode("utf-8", "replace")
    except ConfigError as error:
        raise Unreadable(str(error)) from error


def _heads(files: Sequence[Path]) -> Mapping[str, str]:
    try:
        return {str(file): file.read_text(encoding="utf-8") for file in files if file.exists()}
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable("a published or witnessed checkpoint cannot be read") from error


def public_key(vkey: str) -> NoteVerifier:
    """The public key of a log, as text.

    Raises:
        Unreadable: it is not one.
    """
    try:
        return NoteVerifier.from_vkey(vkey)
    except BadKey as error:
        raise Unreadable(f"the public key cannot be used: {error}") from error


def kept_heads(files: Sequence[Path]) -> Mapping[str, str]:
    """Tree heads that somebody kept, by where they lie. A file is a signed tree head, or the proof beside an export.

    Raises:
        Unreadable: it cannot be read, or is neither.
    """
    heads: dict[str, str] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
            heads[str(file)] = str(json.loads(text)["checkpoint"]) if text.startswith("{") else text
        except OSError as error:
            raise Unreadable(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, RecursionError) as error:
            raise Unreadable(f"{file}: neither a checkpoint nor the proof beside an export") from error
    return heads

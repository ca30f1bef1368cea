"""Configuration of the audit service."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from services.common.config import FilePath, ListenAddress, Model, PeerAddress, TlsFiles
from services.common.telemetry.config import TelemetryConfig


class Witness(Model):
    """Somebody who keeps checkpoints of this log elsewhere, with a key of its own."""

    file: FilePath = Field(description="the newest checkpoint with the witness's cosignature, as it wrote it")
    key: str = Field(description="public key of the witness: name+hash+key")


class Config(Model):
    """One audit process and the log that it owns."""

    listen: ListenAddress = Field(description="host:port; port 0 picks a free one")
    tls: TlsFiles
    authn: PeerAddress = Field(description="where the keys of principal tokens come from")
    authz: PeerAddress = Field(description="who decides whether an operator may read")
    store: FilePath | None = Field(default=None, description="SQLite file, made on first start")
    database_url_file: FilePath | None = Field(
        default=None, description="instead of `store`: file with a postgresql:// URL, mode 0600"
    )
    mirror: FilePath = Field(description="JSON Lines copy of the log, for tail -f and shippers")
    checkpoint: FilePath | None = Field(
        default=None,
        description="the newest signed tree head, published every second and at shutdown; default: `checkpoint` beside "
        "the mirror",
    )
    signing_key_file: FilePath = Field(description="Ed25519 private key of the log, PEM, mode 0600")
    previous_signing_key_file: FilePath | None = Field(
        default=None, description="the key to rotate from: it hands over to `signing_key_file` at the next start"
    )
    mask_key_file: FilePath | None = Field(
        default=None,
        description="key of the HMAC that stands for values named secret, mode 0600; default: derived from the signing "
        "key, so that equal values look different after its rotation",
    )
    witnesses: tuple[Witness, ...] = Field(
        default=(), description="start is refused where the log is behind what one of them has seen"
    )
    log_id: str = Field(
        default="main", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", description="name of this log, signed with it"
    )
    address_file: FilePath | None = Field(default=None, description="gets the bound host:port")
    retention_days: int | None = Field(
        default=None,
        ge=7,
        le=36_500,
        description="delete whole segments of events that are older, with a signed tombstone; default: never",
    )
    telemetry: TelemetryConfig = TelemetryConfig()
    queue_limit: int = Field(default=8192, ge=16, le=1_000_000, description="events waiting for a commit")

    @property
    def published(self) -> Path:
        """Where the newest tree head is published."""
        return self.checkpoint or self.mirror.with_name("checkpoint")

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        if (self.store is None) == (self.database_url_file is None):
            raise ValueError("name either store (SQLite) or database_url_file (PostgreSQL)")
        return self

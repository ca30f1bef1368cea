"""Configuration of the audit service."""

from pydantic import Field

from services.common.config import FilePath, Model, PeerAddress, TlsFiles


class Config(Model):
    """One audit process and the log that it owns."""

    listen: str = Field(description="host:port; port 0 picks a free one")
    tls: TlsFiles
    authn: PeerAddress = Field(description="where the keys of principal tokens come from")
    authz: PeerAddress = Field(description="who decides whether an operator may read")
    store: FilePath = Field(description="SQLite file, made on first start")
    mirror: FilePath = Field(description="JSON Lines copy of the log, for tail -f and shippers")
    signing_key_file: FilePath = Field(description="Ed25519 private key of the log, PEM, mode 0600")
    log_id: str = Field(
        default="main", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", description="name of this log, signed with it"
    )
    address_file: FilePath | None = Field(default=None, description="gets the bound host:port")
    queue_limit: int = Field(default=4096, ge=16, le=1_000_000, description="events waiting for a commit")

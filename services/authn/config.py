"""Configuration of the authn service."""

from typing import Literal

import pydantic

from services.authn.model import ISSUER
from services.common.config import FilePath, Model, PeerAddress, TlsFiles


class AuthnConfig(Model):
    """Relative paths start from the directory of the configuration file. Secrets are named by file."""

    listen: str = pydantic.Field(pattern=r"^[^\s]+:\d{1,5}$")
    """Address to serve on, ``host:port``; port 0 takes a free one."""
    tls: TlsFiles
    audit: PeerAddress
    """Where decisions are recorded before they are answered (R18)."""
    authz: PeerAddress
    """Who decides about administration (R15)."""
    store: FilePath
    """The SQLite file of credentials; made where it is missing."""
    pepper_file: FilePath
    """Key of the MACs of API keys, 32 bytes or more; belongs to the store for good."""
    kek_file: FilePath
    """Key under which signing keys lie in the store, 32 bytes or more (R9)."""
    bootstrap_token_file: FilePath | None = None
    """One-time token for the first administrator; may be removed once that is made."""
    issuer: str = pydantic.Field(default=ISSUER, min_length=1)
    """``iss`` of access tokens."""
    audience: str = pydantic.Field(default="kubegate", min_length=1)
    """``aud`` of access tokens: the canonical MCP URL, or ``kubegate``."""
    access_token_ttl: int = pydantic.Field(default=3600, ge=60, le=86_400)
    """Lifetime of access tokens in seconds."""
    access_token_algorithm: Literal["EdDSA", "ES256", "RS256"] = "EdDSA"
    """What signs access tokens; a change takes effect with the next signing key."""
    signing_key_period: int = pydantic.Field(default=30 * 86_400, ge=3600, le=365 * 86_400)
    """Seconds for which a signing key signs before the next one does."""
    address_file: FilePath | None = None
    """Where to write the bound address, for whoever started the process."""

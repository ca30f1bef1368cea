"""Configuration of the authn service."""

from pathlib import Path
from typing import Literal

import pydantic

from services.common.config import FilePath, ListenAddress, Model, PeerAddress, TlsFiles
from services.common.identity import OWN_ISSUER
from services.common.telemetry.config import TelemetryConfig


class IssuerConfig(Model):
    """An issuer whose tokens are accepted. Claims are named by their path, such as ``realm_access.roles``."""

    issuer: str = pydantic.Field(min_length=1)
    """The ``iss`` of its tokens: an https URL, or any name where a secret is shared."""
    audience: str = pydantic.Field(min_length=1)
    """The ``aud`` that its tokens must carry."""
    jwks_uri: str = ""
    """Where its keys are; by OpenID Connect discovery where this is left out."""
    ca_file: FilePath | None = None
    """Its certification authorities, PEM; by default those of the system."""
    hs256_secret_file: FilePath | None = None
    """A secret of 32 bytes or more that it signs with, in place of public keys. Whoever verifies could sign."""
    algorithms: tuple[str, ...] = ()
    token_types: tuple[str, ...] = ()
    """Values of the header ``typ`` that are access tokens; by default at+jwt (RFC 9068)."""
    subject_claim: str = "sub"
    groups_claim: str = ""
    roles_claim: str = ""
    role_map: dict[str, str] = pydantic.Field(default_factory=dict)
    """Values of the roles claim -> roles of the policy. What is not here is no role."""
    scope_map: dict[str, str] = pydantic.Field(default_factory=dict)
    """Scopes of its tokens -> roles of the policy. With ``roles_claim`` too, a role takes both."""
    scope_claim: str = "scope"
    initial_scopes: tuple[str, ...] = ()
    """Scopes that a client should ask for first; all of ``scope_map`` where none is named."""
    default_roles: tuple[str, ...] = ()
    tenant_claim: str = ""
    tenant: str = ""
    permissions_claim: str = ""
    """Permissions are taken from a token only where this names their claim (R3)."""
    kubernetes: bool = False
    """Its tokens are of Kubernetes ServiceAccounts, which become ``serviceaccount/<namespace>/<name>`` (R2)."""


class CertificateConfig(Model):
    """Whom a client certificate stands for."""

    name: str = pydantic.Field(pattern=r"^(spiffe://|CN=).+")
    """Its SPIFFE id, or ``CN=<common name>`` where it has none."""
    identity: str = pydantic.Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?$")
    roles: tuple[str, ...] = pydantic.Field(min_length=1)
    namespaces: tuple[str, ...] = ()
    """Names and patterns that cap every role; none where there is no cap."""
    tenant: str = ""


class AuthnConfig(Model):
    """Relative paths start from the directory of the configuration file. Secrets are named by file."""

    listen: ListenAddress
    tls: TlsFiles
    audit: PeerAddress
    """Where decisions are recorded before they are answered (R18)."""
    authz: PeerAddress
    """Who decides about administration (R15)."""
    store: str
    """The SQLite file of credentials, made where it is missing; or a postgresql:// URL without password."""
    store_password_file: FilePath | None = None
    """Password of the PostgreSQL user."""
    pepper_file: FilePath
    """Key of the MACs of API keys, 32 bytes or more; belongs to the store for good."""
    kek_file: FilePath
    """Key under which signing keys lie in the store, 32 bytes or more (R9)."""
    bootstrap_token_file: FilePath | None = None
    """One-time token for the first administrator; may be removed once that is made."""
    issuer: str = pydantic.Field(default=OWN_ISSUER, min_length=1)
    """``iss`` of access tokens."""
    audience: str = pydantic.Field(default="kubegate", min_length=1)
    """``aud`` of access tokens: the canonical MCP URL, or ``kubegate``."""
    access_token_ttl: int = pydantic.Field(default=3600, ge=60, le=86_400)
    """Lifetime of access tokens in seconds."""
    issuers: tuple[IssuerConfig, ...] = ()
    """Issuers whose tokens are accepted, beside those that administrators add."""
    client_ca_file: FilePath | None = None
    """Authorities of client certificates, PEM; without it no client certificate is accepted."""
    certificates: tuple[CertificateConfig, ...] = ()
    """Whom client certificates stand for."""
    access_token_algorithm: Literal["EdDSA", "ES256", "RS256"] = "EdDSA"
    """What signs access tokens; a change takes effect with the next signing key."""
    signing_key_period: int = pydantic.Field(default=30 * 86_400, ge=3600, le=365 * 86_400)
    """Seconds for which a signing key signs before the next one does."""
    address_file: FilePath | None = None
    """Where to write the bound address, for whoever started the process."""
    telemetry: TelemetryConfig = TelemetryConfig()

    @pydantic.field_validator("store")
    @classmethod
    def _path_or_url(cls, value: str, info: pydantic.ValidationInfo) -> str:
        if "://" not in value:
            return str(Path((info.context or {}).get("base", Path.cwd()), value))
        if not value.startswith("postgresql://"):
            raise ValueError("is neither a path nor a postgresql:// URL")
        named = "@" in value and ":" in value.removeprefix("postgresql://").partition("@")[0]
        if named or "password=" in value:
            raise ValueError("must not hold the password; put it in a file and name that as store_password_file")
        return value

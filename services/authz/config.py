"""Configuration of the authz service."""

from services.common.config import FilePath, Model, PeerAddress, TlsFiles
from services.common.telemetry.config import TelemetryConfig


class AuthzConfig(Model):
    """Relative paths start from the directory of the configuration file."""

    listen: str
    """Address to serve on, ``host:port``; port 0 takes a free one."""
    tls: TlsFiles
    authn: PeerAddress
    """Whose keys verify principal tokens."""
    audit: PeerAddress
    """Where decisions are recorded before they are answered (R18)."""
    policy: FilePath
    """The policy file; watched while the service runs."""
    store: FilePath
    """The SQLite file that holds elevations."""
    address_file: FilePath | None = None
    """Where to write the bound address, for whoever started the process."""
    telemetry: TelemetryConfig = TelemetryConfig()

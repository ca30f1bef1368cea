"""Configuration of the authz service."""

from services.common.config import FilePath, ListenAddress, Model, PeerAddress, TlsFiles
from services.common.telemetry.config import TelemetryConfig


class AuthzConfig(Model):
    """Relative paths start from the directory of the configuration file."""

    listen: ListenAddress
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

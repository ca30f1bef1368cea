"""Configuration of the development cluster."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from services.common.config import FilePath, Model


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError('must be "host:port"')
    return text


ExistingFile = Annotated[FilePath, AfterValidator(_existing)]


class ClusterTls(Model):
    """The certificate of the server, and the CA that makes its users."""

    cert_file: ExistingFile
    key_file: ExistingFile
    client_ca_file: ExistingFile
    """Whose client certificates are users: CN is the name, every O a group, `system:masters` may do everything."""


class DevClusterConfig(Model):
    """Relative paths start from the directory of the configuration file."""

    listen: Annotated[str, AfterValidator(_address)]
    """Address to serve on, `host:port`; port 0 takes a free one."""
    tls: ClusterTls
    address_file: FilePath | None = None
    """Where to write the bound address, for whoever started the process."""
    manifests: tuple[ExistingFile, ...] = ()
    """Kubernetes objects to apply at start, YAML or JSON, several a file; this is how RBAC gets in."""
    seed: bool = True
    """Whether there are sample workloads."""
    time_scale: float = Field(default=1.0, gt=0, le=1_000)
    """How many times faster than in life pods start, crash, back off and stop."""

    @property
    def host(self) -> str:
        """The address to listen on, without the port."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])

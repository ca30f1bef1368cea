"""A mesh of certificates for tests: a CA of its own in a temporary directory."""

from pathlib import Path

from services.cli.pki import Authority
from services.common.config import PeerAddress, TlsFiles
from services.common.grpc_client import Peer
from services.common.tls import server_name


class Mesh:
    """Issues TLS files for SPIFFE paths; two meshes do not trust each other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.open(directory / "ca", "kubegate test CA")

    def tls(self, path: str) -> TlsFiles:
        """The files of ``service/authn``, ``operator/alice``, ``platform/billing`` ..."""
        directory = self.directory / path
        if not directory.exists():
            self.authority.mesh(path).write(directory, self.authority.certificate)
        return TlsFiles(cert_file=directory / "tls.crt", key_file=directory / "tls.key", ca_file=directory / "ca.crt")

    def peer(self, service: str, port: int, as_: str) -> Peer:
        """A client of a service on loopback, with the certificate of ``as_``."""
        address = PeerAddress(address=f"127.0.0.1:{port}", server_name=server_name(service))
        return Peer(service, address, self.tls(as_))

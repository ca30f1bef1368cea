"""Certificates of the mesh: who a peer is, and credentials that follow rotated files without a restart."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from services.common.config import TlsFiles
from services.common.errors import Unauthenticated

TRUST_DOMAIN = "kubegate.internal"
_PREFIX = f"spiffe://{TRUST_DOMAIN}/"


def spiffe_id(path: str) -> str:
    """The SPIFFE ID of a path such as ``service/authn``."""
    return _PREFIX + path


def server_name(service: str) -> str:
    """The DNS SAN that the certificate of a service must carry (R7)."""
    return f"{service}.{TRUST_DOMAIN}"


def peer_path(auth_context: Mapping[str, Sequence[bytes]]) -> str:
    """The SPIFFE path of an authenticated peer.

    Raises:
        Unauthenticated: the connection is not TLS 1.3, or the certificate carries no identity of ours or
            more than one (SPIFFE X.509-SVID, section 2: exactly one URI SAN).
    """
    if list(auth_context.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
        raise Unauthenticated("Services speak TLS 1.3 with a client certificate.")
    ids = list(auth_context.get("peer_spiffe_id", ()))
    if len(ids) != 1 or not ids[0].startswith(_PREFIX.encode()):
        raise Unauthenticated("The client certificate carries no identity of this trust domain.")
    return ids[0].decode("ascii", "replace")[len(_PREFIX) :]


def matches(peer: str, allow: Sequence[str]) -> bool:
    """Whether a SPIFFE path is in an allow-list; ``platform/*`` stands for exactly one further segment."""
    head, slash, tail = peer.partition("/")
    return peer in allow or bool(slash and tail and "/" not in tail and f"{head}/*" in allow)


def spiffe_path(uris: Sequence[str]) -> str | None:
    """The path in the URI SANs of a certificate; ``None`` where they are not exactly one identity of ours."""
    ours = [uri.removeprefix(_PREFIX) for uri in uris if uri.startswith(_PREFIX)]
    return ours[0] if len(uris) == 1 and ours else None


class CertificateFiles:
    """Reads a key pair and CA, and tells when the files have been replaced."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp: tuple[int, ...] = ()

    def changed(self) -> bool:
        """Whether there are files other than those last read. While they are being replaced, one may be away."""
        try:
            return self._stat() != self._stamp
        except OSError:
            return False

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Certificate chain, private key and CA bundle, as PEM.

        Raises:
            OSError: one of them cannot be read.
        """
        stamp, files = self._stat(), self._files
        pem = files.cert_file.read_bytes(), files.key_file.read_bytes(), files.ca_file.read_bytes()
        self._stamp = stamp
        return pem

    def _stat(self) -> tuple[int, ...]:
        files = self._files
        stats = [path.stat() for path in (files.cert_file, files.key_file, files.ca_file)]
        return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_ino, stat.st_size))


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate and follow rotated files at each handshake."""
    source = CertificateFiles(files)

    def configuration() -> grpc.ServerCertificateConfiguration:
        chain, key, ca = source.read()
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        try:
            return configuration() if source.changed() else None
        except OSError:
            # Half-replaced files: keep the pair that works, the next handshake looks again.
            return None

    # The stubs leave out that None means "no change".
    fetcher: Any = fetch
    return grpc.dynamic_ssl_server_credentials(configuration(), fetcher, require_client_authentication=True)

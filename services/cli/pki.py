"""A small certificate authority for development stacks: the mesh of services, the edge, the embedded cluster.

Elliptic-curve keys (P-256). Private keys are written with mode 0600 before their certificates, so that a
crash in between leaves no certificate without its key.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.runtime_errors import StartupError
from services.common.tls import server_name, spiffe_id

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=90)
_BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, ca: bytes) -> None:
        """Writes ``tls.key``, ``ca.crt`` and ``tls.crt`` into a directory that only its owner may enter; each appears
        whole, and the certificate last, for services follow them."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(directory / "tls.key", self.key)
        write_public(directory / "ca.crt", ca)
        write_public(directory / "tls.crt", self.certificate)


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner may read, from its first byte on, and replaces an earlier one whole."""
    _replace(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Writes a file that others may read, as far as the umask lets them, and replaces an earlier one whole."""
    _replace(path, data, 0o666)


def _replace(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)


def days_left(certificate: Path) -> int:
    """Whole days until a certificate file ends; negative when it has ended or cannot be read."""
    try:
        end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return -1
    return (end - datetime.now(UTC)).days


def usable(directory: Path, ca: bytes | None = None) -> bool:
    """Whether a directory holds a certificate with its own private key and a CA certificate, this one if given."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / "tls.crt").read_bytes())
        key = serialization.load_pem_private_key((directory / "tls.key").read_bytes(), password=None)
        stored = (directory / "ca.crt").read_bytes()
        return key.public_key() == certificate.public_key() and ca in (None, stored)
    except (OSError, ValueError):
        return False


def names_of(certificate: Path) -> frozenset[str]:
    """The host names and addresses of a certificate file; none where it has none or cannot be read."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return frozenset()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset((*names.get_values_for_type(x509.DNSName), *addresses))


class Authority:
    """A certificate authority whose key lies in ``directory`` (``ca.crt``, ``ca.key``)."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def open(cls, directory: Path, common_name: str) -> "Authority":
        """The authority stored there, or a new one.

        Raises:
            StartupError: the stored one cannot be read; it is never replaced silently, for that would strand
                every certificate that it issued.
        """
        certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
        if not certificate_path.exists() and not key_path.exists():
            return cls._create(directory, common_name)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise StartupError(
                f"{directory}: the certificate authority is damaged; restore ca.crt and ca.key, or remove both "
                "(and with them every certificate in this home) to make new ones"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StartupError(f"{key_path}: not an elliptic-curve key")
        return cls(certificate, key)

    @classmethod
    def _create(cls, directory: Path, common_name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(directory / "ca.key", _pem(key))
        write_public(directory / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(certificate, key)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def mesh(self, path: str) -> KeyPair:
        """A certificate of the mesh for a SPIFFE path. Services get the one DNS name that clients pin (R7);
        operators and platform services get none and so can never pass as a server."""
        kind, _, name = path.partition("/")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(path))]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if kind == "service":
            names.append(x509.DNSName(server_name(name)))
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        return self._issue(path.replace("/", "-"), (), names, usages)

    def server(self, common_name: str, hosts: Sequence[str]) -> KeyPair:
        """A server certificate for host names and addresses."""
        return self._issue(common_name, (), [_host(host) for host in hosts], [ExtendedKeyUsageOID.SERVER_AUTH])

    def client(self, common_name: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate as Kubernetes reads it: the common name is the user, organizations are groups."""
        return self._issue(common_name, groups, [], [ExtendedKeyUsageOID.CLIENT_AUTH])

    def _issue(
        self,
        common_name: str,
        organizations: Sequence[str],
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )

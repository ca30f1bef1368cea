"""What the configuration names: secrets, trusted issuers, authorities of client certificates and their rules."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from services.authn.config import AuthnConfig, IssuerConfig
from services.authn.model import EVERYWHERE, CertificateRule, NamespaceScope, Secret, TrustedIssuer
from services.authn.rules import checked_issuer, is_role
from services.common.config import read_secret
from services.common.errors import InvalidArgument
from services.common.runtime_errors import ConfigError, StartupError

MIN_SECRET = 32
"""Bytes at least of a pepper, a key-encryption key, and an HS256 secret (RFC 7518, 3.2)."""


def check(config: AuthnConfig) -> None:
    """Reads all that the configuration names, but no store, and asks nobody.

    Raises:
        StartupError: lists every problem.
    """
    problems: list[str] = []
    for read in (
        lambda: long_secret(config.pepper_file),
        lambda: long_secret(config.kek_file),
        lambda: read_secret(config.store_password_file) if config.store_password_file else None,
        lambda: configured_issuers(config),
        lambda: client_authorities(config),
        lambda: certificate_rules(config),
    ):
        try:
            read()
        except StartupError as error:
            problems.append(str(error))
    if problems:
        raise StartupError("\n".join(problems))


def long_secret(path: Path) -> bytes:
    """A secret from a file.

    Raises:
        ConfigError: it cannot be read or is too short.
    """
    secret = read_secret(path)
    if len(secret) < MIN_SECRET:
        raise ConfigError(path, [f"secret file holds fewer than {MIN_SECRET} bytes; write a random one"])
    return secret


def configured_issuers(config: AuthnConfig) -> Sequence[TrustedIssuer]:
    """The issuers of the configuration.

    Raises:
        ConfigError: one breaks the rules, is named twice, or a file of it cannot be used.
    """
    issuers = [_issuer(each, config.issuer) for each in config.issuers]
    names = [issuer.issuer for issuer in issuers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(Path("issuers"), [f"{name} is named twice" for name in twice])
    return issuers


def _issuer(each: IssuerConfig, own: str) -> TrustedIssuer:
    secret = read_secret(each.hs256_secret_file) if each.hs256_secret_file else None
    if each.hs256_secret_file and secret is not None and len(secret) < MIN_SECRET:
        problem = f"secret of HS256 holds fewer than {MIN_SECRET} bytes; write a random one"
        raise ConfigError(each.hs256_secret_file, [problem])
    values = each.model_dump(exclude={"ca_file", "hs256_secret_file"})
    issuer = TrustedIssuer(
        **values,
        ca_pem=_pem(each.ca_file) if each.ca_file else "",
        secret=Secret(secret.decode("latin-1")) if secret is not None else None,
        configured=True,
    )
    try:
        return checked_issuer(issuer, own)
    except InvalidArgument as error:
        raise ConfigError(Path("issuers"), [f"{each.issuer}: {error.public_message}"]) from None


def _pem(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:
        raise ConfigError(path, ["is no readable PEM file of certificates"]) from error
    return text


def client_authorities(config: AuthnConfig) -> Sequence[x509.Certificate]:
    """The authorities of client certificates.

    Raises:
        ConfigError: the file cannot be used.
    """
    if config.client_ca_file is None:
        return ()
    return x509.load_pem_x509_certificates(_pem(config.client_ca_file).encode())


def certificate_rules(config: AuthnConfig) -> Sequence[CertificateRule]:
    """Whom client certificates stand for.

    Raises:
        ConfigError: a role cannot be one.
    """
    bad = [f"{each.name}: role {role!r}" for each in config.certificates for role in each.roles if not is_role(role)]
    if bad:
        raise ConfigError(Path("certificates"), bad)
    return [
        CertificateRule(
            each.name,
            each.identity,
            each.roles,
            NamespaceScope(False, each.namespaces) if each.namespaces else EVERYWHERE,
            each.tenant,
        )
        for each in config.certificates
    ]

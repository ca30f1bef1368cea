"""Client certificates: X.509 (RFC 5280) of a configured authority, mapped by SPIFFE id or subject.

That the caller holds the private key was proven in the TLS handshake with the core, whose word it is. What a
certificate may do lies in the configuration, never in the certificate (R3).
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from services.authn.errors import Reason, Rejected
from services.authn.model import CertificateCredential, CertificateRule, Credential, Principal

AUTH_TYPE = "certificate"

_LEAF = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
"""As on the web, but that a client may be named by its subject alone: private authorities often do that."""


class CertificateAuthenticator:
    """Judges client certificates."""

    auth_type = AUTH_TYPE

    def __init__(self, authorities: Sequence[x509.Certificate], rules: Sequence[CertificateRule]) -> None:
        """Without authorities every certificate is refused."""
        self._store = Store(list(authorities)) if authorities else None
        self._rules = {rule.name: rule for rule in rules}

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, CertificateCredential)

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if not isinstance(credential, CertificateCredential) or not credential.der:
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        fingerprint = hashlib.sha256(credential.der).hexdigest()
        if self._store is None:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        try:
            leaf = x509.load_der_x509_certificate(credential.der)
            policy = PolicyBuilder().store(self._store).time(now.replace(tzinfo=None))
            policy = policy.extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_LEAF)
            policy.build_client_verifier().verify(leaf, [])
            rule = self._rule(leaf)
            expires_at = leaf.not_valid_after_utc
        except (VerificationError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise Rejected(Reason.CERTIFICATE, AUTH_TYPE) from None
        if rule is None:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        return Principal(
            subject=rule.identity,
            credential_id=f"sha256:{fingerprint}",
            auth_type=AUTH_TYPE,
            auth_time=now,
            roles=rule.roles,
            namespaces=rule.namespaces,
            tenant=rule.tenant,
            amr=("pop",),
            expires_at=expires_at,
        )

    def _rule(self, leaf: x509.Certificate) -> CertificateRule | None:
        """By the one SPIFFE id, where there is one (X.509-SVID: exactly one URI SAN); else by ``CN=...``."""
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        if uris:
            return self._rules.get(uris[0]) if len(uris) == 1 else None
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return self._rules.get(f"CN={common[0].value!s}") if len(common) == 1 else None

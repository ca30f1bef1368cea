"""protobuf <-> domain. Conversions only; what is too long for the record is shortened here."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authn.v1 import admin_pb2, authn_pb2
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.authn.exchange import Exchange
from services.authn.model import (
    KEY_PREFIX,
    ApiKey,
    CertificateCredential,
    Credential,
    Ends,
    NamespaceScope,
    NewApiKey,
    PasswordCredential,
    Principal,
    Secret,
    Source,
    TokenCredential,
    TrustedIssuer,
)
from services.common.errors import InvalidArgument

_ADDRESS_LIMIT = 64
_USER_AGENT_LIMIT = 256


def stamp(moment: datetime) -> Timestamp:
    """A UTC datetime as a protobuf timestamp."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Timestamp) -> datetime:
    """A protobuf timestamp as a UTC datetime.

    Raises:
        InvalidArgument: it lies outside the years 1 to 9999.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("expires_at is not a valid time.") from None


def scope_to_proto(scope: NamespaceScope) -> identity_pb2.NamespaceScope:
    return identity_pb2.NamespaceScope(all=scope.all, patterns=scope.patterns)


def scope_from_proto(message: identity_pb2.NamespaceScope) -> NamespaceScope:
    return NamespaceScope(message.all, tuple(message.patterns))


def principal_to_proto(principal: Principal) -> identity_pb2.Principal:
    return identity_pb2.Principal(
        issuer=principal.issuer,
        subject=principal.subject,
        credential_id=principal.credential_id,
        auth_type=principal.auth_type,
        tenant=principal.tenant,
        groups=principal.groups,
        roles=principal.roles,
        permissions=principal.permissions,
        namespaces=scope_to_proto(principal.namespaces),
        tools=principal.tools,
        amr=principal.amr,
        auth_time=stamp(principal.auth_time),
        expires_at=stamp(principal.expires_at) if principal.expires_at else None,
        ends_with=principal.ends_with,
        narrowed_to=principal.narrowed_to,
        actors=[identity_pb2.Actor(issuer=issuer, subject=subject) for issuer, subject in principal.actors],
    )


def principal_from_proto(message: identity_pb2.Principal) -> Principal:
    return Principal(
        issuer=message.issuer,
        subject=message.subject,
        credential_id=message.credential_id,
        auth_type=message.auth_type,
        tenant=message.tenant,
        groups=tuple(message.groups),
        roles=tuple(message.roles),
        permissions=tuple(message.permissions),
        namespaces=scope_from_proto(message.namespaces),
        tools=tuple(message.tools),
        amr=tuple(message.amr),
        ends_with=tuple(message.ends_with),
        narrowed_to=tuple(message.narrowed_to),
        actors=tuple((actor.issuer, actor.subject) for actor in message.actors),
        auth_time=moment(message.auth_time),
        expires_at=moment(message.expires_at) if message.HasField("expires_at") else None,
    )


def api_key_to_proto(key: ApiKey) -> authn_pb2.ApiKey:
    return authn_pb2.ApiKey(
        id=key.id,
        identity=key.identity,
        roles=key.roles,
        permissions=key.permissions,
        namespaces=scope_to_proto(key.namespaces),
        tools=key.tools,
        tenant=key.tenant,
        enabled=key.enabled,
        created_at=stamp(key.created_at),
        expires_at=stamp(key.expires_at) if key.expires_at else None,
        last_used_at=stamp(key.last_used_at) if key.last_used_at else None,
        certificate_sha256=key.certificate_sha256,
        replaced_by=key.replaced_by,
    )


def new_api_key_from_proto(message: authn_pb2.CreateApiKeyRequest) -> NewApiKey:
    return NewApiKey(
        identity=message.identity,
        roles=tuple(message.roles),
        permissions=tuple(message.permissions),
        namespaces=scope_from_proto(message.namespaces) if message.HasField("namespaces") else None,
        tools=tuple(message.tools),
        tenant=message.tenant,
        expires_at=moment(message.expires_at) if message.HasField("expires_at") else None,
        certificate_sha256=message.certificate_sha256.lower(),
    )


def credential_from_proto(message: authn_pb2.Credential, certificate: bytes = b"") -> Credential | None:
    """The credential that was sent, ``None`` where there is none. ``certificate``: what came along (DER)."""
    match message.WhichOneof("kind"):
        case "token":
            return TokenCredential(Secret(message.token), certificate)
        case "password":
            return password_from_proto(message.password)
        case "certificate":
            return CertificateCredential(certificate)
    return None


def grant_from_proto(message: authn_pb2.IssueTokenRequest) -> Credential | None:
    """The password or API key of a token request; ``None`` where it is not the only grant there."""
    if message.refresh_token or message.HasField("exchange"):
        return None
    if message.HasField("password") and message.HasField("client"):
        return None
    if message.HasField("password"):
        return password_from_proto(message.password)
    if message.HasField("client"):
        return TokenCredential(Secret(f"{KEY_PREFIX}{message.client.client_id}_{message.client.client_secret}"))
    return None


def exchange_from_proto(message: authn_pb2.TokenExchange) -> Exchange:
    return Exchange(
        subject=Secret(message.subject_token),
        subject_type=message.subject_token_type,
        actor=Secret(message.actor_token),
        actor_type=message.actor_token_type,
        targets=(*message.audience, *message.resource),
        scope=message.scope,
        requested_type=message.requested_token_type,
    )


def issuer_from_proto(message: admin_pb2.TrustedIssuer) -> TrustedIssuer:
    return TrustedIssuer(
        issuer=message.issuer,
        audience=message.audience,
        jwks_uri=message.jwks_uri,
        ca_pem=message.ca_pem,
        algorithms=tuple(message.algorithms),
        token_types=tuple(message.token_types),
        subject_claim=message.subject_claim,
        groups_claim=message.groups_claim,
        roles_claim=message.roles_claim,
        role_map=dict(message.role_map),
        default_roles=tuple(message.default_roles),
        tenant_claim=message.tenant_claim,
        tenant=message.tenant,
        permissions_claim=message.permissions_claim,
        kubernetes=message.kubernetes,
        scope_map=dict(message.scope_map),
        scope_claim=message.scope_claim,
        initial_scopes=tuple(message.initial_scopes),
    )


def issuer_to_proto(issuer: TrustedIssuer) -> admin_pb2.TrustedIssuer:
    return admin_pb2.TrustedIssuer(
        issuer=issuer.issuer,
        audience=issuer.audience,
        jwks_uri=issuer.jwks_uri,
        ca_pem=issuer.ca_pem,
        algorithms=issuer.algorithms,
        token_types=issuer.token_types,
        subject_claim=issuer.subject_claim,
        groups_claim=issuer.groups_claim,
        roles_claim=issuer.roles_claim,
        role_map=dict(issuer.role_map),
        default_roles=issuer.default_roles,
        tenant_claim=issuer.tenant_claim,
        tenant=issuer.tenant,
        permissions_claim=issuer.permissions_claim,
        kubernetes=issuer.kubernetes,
        enabled=issuer.enabled,
        configured=issuer.configured,
        scope_map=issuer.scope_map,
        scope_claim=issuer.scope_claim,
        initial_scopes=issuer.initial_scopes,
    )


def server_to_proto(issuer: TrustedIssuer) -> authn_pb2.AuthorizationServer:
    scopes = sorted(issuer.scope_map)
    return authn_pb2.AuthorizationServer(
        issuer=issuer.issuer, scopes=scopes, initial_scopes=issuer.initial_scopes or scopes
    )


def ends_to_proto(ends: Ends) -> authn_pb2.WatchRevocationsResponse:
    return authn_pb2.WatchRevocationsResponse(
        answer=lease_pb2.LeaseAnswer(revision=ends.revision),
        ended=[name for name, _ in ends.ended],
        ended_revisions=[revision for _, revision in ends.ended],
        reset=ends.reset,
    )


def password_from_proto(message: authn_pb2.PasswordCredential) -> PasswordCredential:
    return PasswordCredential(message.username, Secret(message.password), Secret(message.otp))


def source_from_proto(message: identity_pb2.Source) -> Source:
    return Source(message.address[:_ADDRESS_LIMIT], message.user_agent[:_USER_AGENT_LIMIT])


def source_to_proto(source: Source) -> identity_pb2.Source:
    return identity_pb2.Source(address=source.address, user_agent=source.user_agent)

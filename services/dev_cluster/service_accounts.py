"""ServiceAccount tokens: issued by TokenRequest, published as an OpenID Connect issuer, as kube-apiserver does.

Signed with RS256, kube-apiserver's own, under a key that lives and dies with this process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from functools import cached_property
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from services.dev_cluster.clock import stamp
from services.dev_cluster.kinds import SERVICE_ACCOUNT, Object
from services.dev_cluster.rbac import AUTHENTICATED, User
from services.dev_cluster.store import Store

PREFIX = "system:serviceaccount:"
ISSUER = "https://kubernetes.default.svc.cluster.local"
ALGORITHM = "RS256"
JWKS_PATH = "/openid/v1/jwks"
DISCOVERY_PATH = "/.well-known/openid-configuration"


def account_user(namespace: str, name: str, uid: str = "") -> User:
    """The user that a ServiceAccount is."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(f"{PREFIX}{namespace}:{name}", groups, uid)


class Tokens:
    """Issues tokens, and knows its own again."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        # Made when it is first needed: a cluster that issues no token starts without waiting for it.
        return rsa.generate_private_key(65537, 2048)

    @cached_property
    def _kid(self) -> str:
        """As kube-apiserver names keys: the digest of the public one."""
        public = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.urlsafe_b64encode(hashlib.sha256(public).digest()).rstrip(b"=").decode()

    def jwks(self) -> Object:
        """The public key as a JWK set (RFC 7517)."""
        public: Object = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        named = {"use": "sig", "alg": ALGORITHM, "kid": self._kid}
        return {"keys": [named | {name: public[name] for name in ("kty", "n", "e")}]}

    def discovery(self, host: str) -> Object:
        """The document of OpenID Connect Discovery, for whoever reached this API at ``host``."""
        return {
            "issuer": ISSUER,
            "jwks_uri": f"https://{host}{JWKS_PATH}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        }

    def issue(self, account: Object, spec: Object) -> Object:
        """The status of a TokenRequest for a service account."""
        now = int(self._store.clock.now())
        meta = account["metadata"]
        expires = now + max(600, min(int(spec.get("expirationSeconds") or 3600), 86_400))
        claims = {
            "iss": ISSUER,
            "aud": spec.get("audiences") or [ISSUER],
            "sub": f"{PREFIX}{meta['namespace']}:{meta['name']}",
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": secrets.token_hex(16),
            "kubernetes.io": {
                "namespace": meta["namespace"],
                "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
            },
        }
        # Kubernetes' tokens have no `typ`.
        token = jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._kid, "typ": ""})
        return {"token": token, "expirationTimestamp": stamp(expires)}

    def user(self, token: str) -> User | None:
        """The account a token speaks for; None when it is no good or its account is gone."""
        required = ["exp", "aud", "sub", "kubernetes.io"]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key.public_key(),
                [ALGORITHM],
                audience=ISSUER,
                issuer=ISSUER,
                options={"require": required},
            )
        except jwt.InvalidTokenError:
            return None
        namespace, subject = claims["kubernetes.io"]["namespace"], claims["kubernetes.io"]["serviceaccount"]
        account = self._store.get(SERVICE_ACCOUNT, namespace, subject["name"])
        if account is None or account["metadata"]["uid"] != subject["uid"]:
            return None
        return account_user(namespace, subject["name"], subject["uid"])

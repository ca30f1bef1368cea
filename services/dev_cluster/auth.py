"""Who is calling: client certificate or service account token, then impersonation."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import jwt
from aiohttp import web

from services.dev_cluster import errors
from services.dev_cluster.clock import stamp
from services.dev_cluster.kinds import SERVICE_ACCOUNT, Object
from services.dev_cluster.rbac import AUTHENTICATED, UNAUTHENTICATED, Action, Rbac, User
from services.dev_cluster.store import Store

ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
ISSUER = "https://kubernetes.default.svc.cluster.local"
_AUTHN = "authentication.k8s.io"


def _service_account_user(namespace: str, name: str, uid: str = "") -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}", groups, uid)


class Tokens:
    """Service account tokens, signed with a key that lives and dies with this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = secrets.token_bytes(32)

    def issue(self, account: Object, spec: Object) -> Object:
        """The status of a TokenRequest for a service account."""
        now = int(self._store.clock.now())
        meta = account["metadata"]
        expires = now + max(600, min(int(spec.get("expirationSeconds") or 3600), 86_400))
        claims = {
            "iss": ISSUER,
            "aud": spec.get("audiences") or [ISSUER],
            "sub": f"{SERVICE_ACCOUNT_PREFIX}{meta['namespace']}:{meta['name']}",
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": secrets.token_hex(16),
            "kubernetes.io": {
                "namespace": meta["namespace"],
                "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
            },
        }
        return {"token": jwt.encode(claims, self._key, "HS256"), "expirationTimestamp": stamp(expires)}

    def user(self, token: str) -> User | None:
        """The account a token speaks for; None when it is no good or its account is gone."""
        required = ["exp", "aud", "sub", "kubernetes.io"]
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._key, ["HS256"], audience=ISSUER, issuer=ISSUER, options={"require": required}
            )
        except jwt.InvalidTokenError:
            return None
        namespace, subject = claims["kubernetes.io"]["namespace"], claims["kubernetes.io"]["serviceaccount"]
        account = self._store.get(SERVICE_ACCOUNT, namespace, subject["name"])
        if account is None or account["metadata"]["uid"] != subject["uid"]:
            return None
        return _service_account_user(namespace, subject["name"], subject["uid"])


def _certificate_user(transport: Any) -> User | None:
    session = transport.get_extra_info("ssl_object") if transport is not None else None
    if not isinstance(session, ssl.SSLObject):
        return None
    certificate = session.getpeercert()
    if not certificate:
        return None
    subject: Iterable[tuple[str, str]] = (pair for rdn in certificate["subject"] for pair in rdn)  # type: ignore[misc]
    pairs = list(subject)
    names = [value for key, value in pairs if key == "commonName"]
    if not names or not names[-1]:
        raise errors.unauthorized()
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(names[-1], (*groups, AUTHENTICATED))


class Authenticator:
    """Turns a request into the user it acts as."""

    def __init__(self, tokens: Tokens, rbac: Rbac) -> None:
        self._tokens = tokens
        self._rbac = rbac

    def authenticate(self, request: web.Request) -> User:
        """The user behind a request; a bad credential is 401, none at all is the anonymous user."""
        user = _certificate_user(request.transport)
        header = request.headers.get("Authorization", "")
        if user is None and header:
            scheme, _, token = header.partition(" ")
            user = self._tokens.user(token.strip()) if scheme.lower() == "bearer" else None
            if user is None:
                raise errors.unauthorized()
        return self._impersonate(request, user or ANONYMOUS)

    def _impersonate(self, request: web.Request, caller: User) -> User:
        headers = request.headers
        name, uid = headers.get("Impersonate-User", ""), headers.get("Impersonate-Uid", "")
        groups = tuple(headers.getall("Impersonate-Group", []))
        extra: dict[str, tuple[str, ...]] = {}
        for header, value in headers.items():
            if header.lower().startswith("impersonate-extra-"):
                key = unquote(header[len("impersonate-extra-") :]).lower()
                extra[key] = (*extra.get(key, ()), value)
        if not name:
            if groups or uid or extra:
                raise errors.bad_request("impersonating groups, uid or extra needs Impersonate-User")
            return caller
        account = (
            name.removeprefix(SERVICE_ACCOUNT_PREFIX).split(":") if name.startswith(SERVICE_ACCOUNT_PREFIX) else []
        )
        if len(account) == 2:
            self.require(caller, Action("impersonate", "", "serviceaccounts", namespace=account[0], name=account[1]))
            implied = _service_account_user(*account).groups
        else:
            self.require(caller, Action("impersonate", "", "users", name=name))
            implied = (AUTHENTICATED,)
        for group in groups:
            self.require(caller, Action("impersonate", "", "groups", name=group))
        if uid:
            self.require(caller, Action("impersonate", _AUTHN, "uids", name=uid))
        for key, values in extra.items():
            for value in values:
                self.require(caller, Action("impersonate", _AUTHN, "userextras", key, name=value))
        if name == ANONYMOUS.name:
            implied = (UNAUTHENTICATED,)
        elif groups and len(account) == 2:
            implied = (AUTHENTICATED,)
        return User(name, tuple(dict.fromkeys((*groups, *implied))), uid, extra)

    def require(self, caller: User, action: Action) -> None:
        if not self._rbac.decide(caller, action).allowed:
            raise denied(caller, action)


def denied(user: User, action: Action) -> errors.ApiError:
    """The 403 that kube-apiserver would give for an action."""
    if action.path:
        message = f'forbidden: User "{user.name}" cannot {action.verb} path "{action.path}"'
        return errors.ApiError(403, "Forbidden", message)
    resource = f"{action.resource}.{action.group}" if action.group else action.resource
    subject = f'{resource} "{action.name}"' if action.name else resource
    where = f'in the namespace "{action.namespace}"' if action.namespace else "at the cluster scope"
    message = (
        f'{subject} is forbidden: User "{user.name}" cannot {action.verb} resource "{action.full_resource}" '
        f'in API group "{action.group}" {where}'
    )
    details = {"name": action.name, "group": action.group, "kind": action.resource}
    return errors.ApiError(403, "Forbidden", message, {k: v for k, v in details.items() if v})

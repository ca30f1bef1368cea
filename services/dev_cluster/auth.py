"""Who is calling: client certificate or service account token, then impersonation."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from services.dev_cluster import errors
from services.dev_cluster.rbac import AUTHENTICATED, UNAUTHENTICATED, Action, Rbac, User
from services.dev_cluster.service_accounts import PREFIX, Tokens, account_user

ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
_AUTHN = "authentication.k8s.io"


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
        account = name.removeprefix(PREFIX).split(":") if name.startswith(PREFIX) else []
        if len(account) == 2:
            self.require(caller, Action("impersonate", "", "serviceaccounts", namespace=account[0], name=account[1]))
            implied = account_user(*account).groups
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

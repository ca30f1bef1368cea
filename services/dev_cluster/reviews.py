"""Access and identity reviews: questions that are asked by creating an object and answered in its status."""

from __future__ import annotations

from services.dev_cluster.errors import bad_request
from services.dev_cluster.kinds import Kind, Object
from services.dev_cluster.rbac import Action, Rbac, User
from services.dev_cluster.service_accounts import ISSUER, Tokens


class Reviews:
    """Answers the review kinds."""

    def __init__(self, rbac: Rbac, tokens: Tokens) -> None:
        self._rbac = rbac
        self._tokens = tokens

    def answer(self, kind: Kind, namespace: str, body: Object, caller: User) -> Object:
        """The review with its status filled in."""
        spec = body.get("spec") or {}
        if kind.name == "SelfSubjectReview":
            status: Object = {"userInfo": _info(caller)}
        elif kind.name == "TokenReview":
            status = self._token(spec)
        elif kind.name == "SelfSubjectRulesReview":
            status = self._rules(caller, spec.get("namespace") or "")
        elif kind.name == "SelfSubjectAccessReview":
            status = self._access(caller, spec)
        else:
            if kind.namespaced and (spec.get("resourceAttributes") or {}).get("namespace") != namespace:
                raise bad_request("spec.resourceAttributes.namespace must be the namespace of the request")
            status = self._access(_subject(spec), spec)
        answer: Object = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": body.get("metadata") or {},
        }
        return answer | ({"spec": spec} if spec else {}) | {"status": status}

    def _access(self, user: User, spec: Object) -> Object:
        asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (asked is None) == (path is None):
            raise bad_request("exactly one of resourceAttributes and nonResourceAttributes must be given")
        if path is not None:
            action = Action(path.get("verb", ""), path=path.get("path", "") or "/")
        else:
            names = ("verb", "group", "resource", "subresource", "namespace", "name")
            action = Action(**{name: (asked or {}).get(name) or "" for name in names})
        decision = self._rbac.decide(user, action)
        return {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})

    def _rules(self, user: User, namespace: str) -> Object:
        if not namespace:
            raise bad_request("no namespace on request")
        status: Object = {"resourceRules": [], "nonResourceRules": [], "incomplete": False}
        for rule, _ in self._rbac.rules(user, namespace):
            if rule.get("nonResourceURLs"):
                status["nonResourceRules"].append({key: rule[key] for key in ("verbs", "nonResourceURLs")})
            else:
                names = ("verbs", "apiGroups", "resources", "resourceNames")
                status["resourceRules"].append({name: rule[name] for name in names if rule.get(name)})
        return status

    def _token(self, spec: Object) -> Object:
        user = self._tokens.user(spec.get("token") or "")
        if user is None:
            return {"authenticated": False, "error": "the token is not valid here"}
        return {"authenticated": True, "user": _info(user), "audiences": [ISSUER]}


def _subject(spec: Object) -> User:
    name, groups = spec.get("user") or "", tuple(spec.get("groups") or ())
    if not name and not groups:
        raise bad_request("at least one of user or groups must be given")
    return User(name, groups, spec.get("uid") or "")


def _info(user: User) -> Object:
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra.items()}
    return info

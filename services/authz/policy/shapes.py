"""Whether an action is well formed: the names that a caller wrote are names, and no namespace is guessed."""

import re
from functools import lru_cache

from services.authz.policy.model import Action, Denied, Reason
from services.authz.policy.permissions import KUBEGATE, Permission
from services.authz.policy.scope import is_namespace

MAX_NAME = 253
_OBJECT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:_-]*[A-Za-z0-9])?")
_CLUSTER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")

NOT_GRANTABLE = Denied(Reason.INVALID_ACTION, "The action is not one that can be granted.")
_BAD_NAME = Denied(Reason.INVALID_ACTION, "The action's object name is malformed.")
_BAD_CLUSTER = Denied(Reason.INVALID_ACTION, "The action's cluster name is malformed.")
_BAD_NAMESPACE = Denied(Reason.INVALID_ACTION, "The action's namespace is malformed.")
_NO_NAMESPACE = Denied(Reason.INVALID_ACTION, "The action names no namespace, and none is guessed.")


@lru_cache(maxsize=4096)
def is_cluster(name: str) -> bool:
    """Whether a name can be a cluster's."""
    return len(name) <= MAX_NAME and _CLUSTER_NAME.fullmatch(name) is not None


def bad_name(permission: Permission, name: str) -> bool:
    """Whether a name cannot be that of an object of the permission's kind."""
    shaped = name.isprintable() if permission.kind.group == KUBEGATE else _OBJECT_NAME.fullmatch(name)
    return not shaped or len(name) > MAX_NAME


def malformed(permission: Permission, action: Action) -> Denied | None:
    """Why an action cannot be one, whoever asks; None where it is well formed."""
    if action.name and bad_name(permission, action.name):
        return _BAD_NAME
    if action.cluster and not is_cluster(action.cluster):
        return _BAD_CLUSTER
    if not permission.kind.namespaced:
        if action.namespace:
            return Denied(Reason.INVALID_ACTION, f"{action.resource} are outside namespaces; name none.")
    elif not action.namespace:
        if not permission.placeless and (not permission.collection or action.name):
            return _NO_NAMESPACE
    elif not is_namespace(action.namespace):
        return _BAD_NAMESPACE
    return None

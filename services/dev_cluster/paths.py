"""Reading a URL path into what is asked of which resource."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from services.dev_cluster.errors import ApiError, unknown_path
from services.dev_cluster.kinds import BY_RESOURCE, NAMESPACE, SUBRESOURCE_VERBS, Kind
from services.dev_cluster.rbac import Action
from services.dev_cluster.selectors import name_in_fields

_VERBS = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_COLLECTION_VERBS = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True)
class Target:
    """A resource request: verb, kind and place."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def action(self) -> Action:
        """What RBAC is asked."""
        kind = self.kind
        return Action(self.verb, kind.group, kind.plural, self.subresource, self.namespace, self.name)


def parse(method: str, path: str, *, watch: bool = False, field_selector: str = "") -> Target | None:
    """The target of a resource path; None for every other path; 404 or 405 for a resource that is not served so."""
    # Split before unquoting: an escaped slash belongs to a name and never starts another path segment.
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) > 2 and parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    # /namespaces/NAME and its own subresources are the Namespace itself, all else is something inside it.
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and rest[2] in NAMESPACE.subresources):
        namespace, rest = rest[1], rest[2:]
    kind = BY_RESOURCE.get((group, version, rest[0]))
    if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
        raise unknown_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if kind is NAMESPACE:
        namespace = name
    elif kind.namespaced and name and not namespace:
        raise unknown_path()
    if subresource and subresource not in kind.subresources:
        raise unknown_path()
    verb = (_VERBS if name else _COLLECTION_VERBS).get(method, "")
    served = SUBRESOURCE_VERBS[subresource] if subresource else kind.verbs
    everywhere = kind.namespaced and not namespace and verb in ("create", "deletecollection")
    if verb not in served or everywhere or (verb == "create" and name and not subresource):
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    if watch and verb in ("get", "list") and not subresource:
        verb = "watch"
    if verb in ("list", "watch", "deletecollection") and not name:
        name = name_in_fields(field_selector)
    return Target(verb, kind, namespace, name, subresource)

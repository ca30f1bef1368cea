"""What is served: legacy and aggregated discovery, the version."""

from __future__ import annotations

from services.dev_cluster.kinds import (
    EVICTION,
    SCALE,
    SUBRESOURCE_VERBS,
    TOKEN_REQUEST,
    Kind,
    Object,
    group_versions,
    served,
)

GIT_VERSION = "v1.36.0+kubegate-dev-cluster"
AGGREGATED = "apidiscovery.k8s.io"
_SUBRESOURCE_KINDS = {"scale": SCALE, "eviction": EVICTION, "token": TOKEN_REQUEST}


def version() -> Object:
    """`/version`."""
    major, minor = GIT_VERSION.removeprefix("v").split(".")[:2]
    build = {"gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "platform": "any"}
    named = {"major": major, "minor": minor, "gitVersion": GIT_VERSION, "goVersion": "none", "compiler": "none"}
    return named | build


def core_versions() -> Object:
    """`/api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def _group(group: str, version_: str) -> Object:
    entry = {"groupVersion": f"{group}/{version_}", "version": version_}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def groups() -> Object:
    """`/apis`."""
    named = [_group(group, version_) for group, version_ in group_versions().items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


def group(name: str) -> Object | None:
    """`/apis/GROUP`; None when it is not served."""
    found = group_versions().get(name) if name else None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, found) if found else None


def resources(name: str, version_: str) -> Object | None:
    """`/api/v1` and `/apis/GROUP/VERSION`; None when it is not served."""
    listed: list[Object] = []
    for kind in served():
        if (kind.group, kind.version) != (name, version_):
            continue
        entry: Object = {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
        }
        entry |= {"kind": kind.name, "verbs": sorted(kind.verbs)}
        entry |= {"shortNames": list(kind.short)} if kind.short else {}
        entry |= {"categories": ["all"]} if kind.in_all else {}
        listed.append(entry)
        for subresource in kind.subresources:
            shown = _SUBRESOURCE_KINDS.get(subresource, kind)
            sub: Object = {
                "name": f"{kind.plural}/{subresource}",
                "singularName": "",
                "namespaced": kind.namespaced,
            }
            sub |= {"kind": shown.name, "verbs": list(SUBRESOURCE_VERBS[subresource])}
            if shown is not kind:
                sub |= {"group": shown.group, "version": shown.version}
            listed.append(sub)
    if not listed:
        return None
    group_version = f"{name}/{version_}" if name else version_
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def aggregated(*, core: bool) -> Object:
    """`/api` or `/apis` for clients that accept `APIGroupDiscoveryList`."""
    items = []
    for name, version_ in group_versions().items():
        if (name == "") is core:
            of_version = [_aggregated(kind) for kind in served() if kind.group == name]
            entry = {"version": version_, "freshness": "Current", "resources": of_version}
            items.append({"metadata": {"name": name} if name else {}, "versions": [entry]})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"{AGGREGATED}/v2", "metadata": {}, "items": items}


def _aggregated(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": _gvk(kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.name.lower(),
        "verbs": sorted(kind.verbs),
        "shortNames": list(kind.short),
        "categories": ["all"] if kind.in_all else [],
    }
    entry["subresources"] = [
        {"subresource": name, "responseKind": _gvk(_SUBRESOURCE_KINDS.get(name, kind)),
         "verbs": list(SUBRESOURCE_VERBS[name])}
        for name in kind.subresources
    ]  # fmt: skip
    return entry


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.name}

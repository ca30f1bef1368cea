"""ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that it can be rolled back."""

from __future__ import annotations

import copy

from services.dev_cluster.kinds import CONTROLLER_REVISION, Object
from services.dev_cluster.store import Store

HASH = "controller.kubernetes.io/hash"
_LIMIT = 10


def keep(store: Store, workload: Object, digest: str, reference: list[Object]) -> None:
    """Has the workload's present template be its newest revision, and forgets the oldest."""
    meta, uid = workload["metadata"], workload["metadata"]["uid"]
    owned = [
        revision
        for revision in store.objects(CONTROLLER_REVISION, meta["namespace"])
        if any(owner["uid"] == uid for owner in revision["metadata"].get("ownerReferences") or [])
    ]
    owned.sort(key=lambda revision: revision["revision"])
    newest = owned[-1]["revision"] if owned else 0
    current = next((one for one in owned if one["metadata"]["labels"].get(HASH) == digest), None)
    if current is None:
        template = copy.deepcopy(workload["spec"]["template"]) | {"$patch": "replace"}
        labels = (workload["spec"]["template"].get("metadata") or {}).get("labels") or {}
        made: Object = {"apiVersion": CONTROLLER_REVISION.api_version, "kind": CONTROLLER_REVISION.name}
        made["metadata"] = {
            "name": f"{meta['name']}-{digest}",
            "namespace": meta["namespace"],
            "labels": labels | {HASH: digest},
            "ownerReferences": reference,
        }
        store.create(CONTROLLER_REVISION, made | {"data": {"spec": {"template": template}}, "revision": newest + 1})
    elif current["revision"] < newest:
        store.update(CONTROLLER_REVISION, current | {"revision": newest + 1})
    limit = workload["spec"].get("revisionHistoryLimit", _LIMIT)
    for old in [one for one in owned if one is not current][: max(0, len(owned) - 1 - limit)]:
        store.delete(CONTROLLER_REVISION, old)

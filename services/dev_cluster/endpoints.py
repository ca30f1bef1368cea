"""EndpointSlices: which ready pods stand behind each Service."""

from __future__ import annotations

from services.dev_cluster.kinds import ENDPOINT_SLICE, POD, SERVICE, Object
from services.dev_cluster.pods import is_ready
from services.dev_cluster.store import Store


def step(store: Store) -> None:
    """Brings the slice of every Service with a selector up to date."""
    for service in store.objects(SERVICE):
        selector = service["spec"].get("selector") or {}
        if selector and "deletionTimestamp" not in service["metadata"]:
            _keep_slice(store, service, selector)


def _keep_slice(store: Store, service: Object, selector: dict[str, str]) -> None:
    meta = service["metadata"]
    wanted: Object = {"apiVersion": ENDPOINT_SLICE.api_version, "kind": ENDPOINT_SLICE.name, "addressType": "IPv4"}
    labels = {"kubernetes.io/service-name": meta["name"], "endpointslice.kubernetes.io/managed-by": "dev-cluster"}
    owner = {"apiVersion": "v1", "kind": "Service", "name": meta["name"], "uid": meta["uid"]}
    owner |= {"controller": True, "blockOwnerDeletion": True}
    wanted["metadata"] = {"name": meta["name"], "namespace": meta["namespace"], "labels": labels}
    wanted["metadata"]["ownerReferences"] = [owner]
    wanted["ports"] = [
        {"name": port.get("name", ""), "port": port["targetPort"], "protocol": port["protocol"]}
        for port in service["spec"].get("ports") or []
        if isinstance(port.get("targetPort"), int)
    ]
    wanted["endpoints"] = [
        _endpoint(pod)
        for pod in store.objects(POD, meta["namespace"])
        if selector.items() <= (pod["metadata"].get("labels") or {}).items() and pod["status"].get("podIP")
    ]
    old = store.get(ENDPOINT_SLICE, meta["namespace"], meta["name"])
    if old is None:
        store.create(ENDPOINT_SLICE, wanted)
    else:
        store.update(ENDPOINT_SLICE, wanted)


def _endpoint(pod: Object) -> Object:
    ready = is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
    reference = {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    reference["uid"] = pod["metadata"]["uid"]
    conditions = {"ready": ready, "serving": ready, "terminating": "deletionTimestamp" in pod["metadata"]}
    place = {"nodeName": pod["spec"].get("nodeName", ""), "targetRef": reference}
    return {"addresses": [pod["status"]["podIP"]], "conditions": conditions} | place

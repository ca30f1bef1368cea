"""The controllers, with time under the test's control."""

import math
from typing import Any

import pytest

from services.dev_cluster import seed
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.kinds import DEPLOYMENT, EVENT, NAMESPACE, POD, REPLICA_SET
from services.dev_cluster.pods import CRASH_AFTER, is_ready
from services.dev_cluster.rbac import MASTERS, User
from services.dev_cluster.store import Change
from services.dev_cluster.writes import Options

OPERATOR = Options(User("admin", (MASTERS,)))


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    seed.plant(cluster, sample=False, manifests=())
    cluster.clock.moment = 2_000_000_000.0
    return cluster


def deploy(cluster: Cluster, replicas: int, **annotations: str) -> dict[str, Any]:
    labels = {"labels": {"app": "web"}, "annotations": annotations}
    template = {"metadata": labels, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    return cluster.writer.create(DEPLOYMENT, "default", {"metadata": {"name": "web"}, "spec": spec}, OPERATOR)


def live_through(cluster: Cluster, seconds: float) -> None:
    """Lets time pass as fast as there is something to do in it."""
    assert cluster.clock.moment is not None
    end = cluster.clock.moment + seconds
    while (due := cluster.controllers.settle()) <= end:
        cluster.clock.moment = due
    cluster.clock.moment = end


def set_image(cluster: Cluster, image: str) -> None:
    old = cluster.store.read(DEPLOYMENT, "default", "web")
    template = {"spec": {"containers": [{"name": "web", "image": image}]}}
    new = old | {"spec": old["spec"] | {"template": old["spec"]["template"] | template}}
    cluster.writer.update(DEPLOYMENT, old, new, OPERATOR)


def test_a_deployment_comes_to_rest_with_as_many_ready_pods_as_it_asks_for(cluster: Cluster) -> None:
    deploy(cluster, 3)
    live_through(cluster, 60)
    assert sum(map(is_ready, cluster.store.objects(POD))) == 3
    assert cluster.store.read(DEPLOYMENT, "default", "web")["status"]["availableReplicas"] == 3
    version = cluster.store.version
    assert cluster.controllers.settle() == math.inf
    assert cluster.store.version == version


def test_a_rolling_update_keeps_to_max_surge_and_max_unavailable(cluster: Cluster) -> None:
    deploy(cluster, 4)
    live_through(cluster, 60)
    seen: list[tuple[int, int]] = []

    def watch(_: Change) -> None:
        sets = cluster.store.objects(REPLICA_SET)
        seen.append((sum(rs["spec"]["replicas"] for rs in sets), sum(map(is_ready, cluster.store.objects(POD)))))

    stop = cluster.store.subscribe(watch)
    set_image(cluster, "web:2")
    live_through(cluster, 60)
    stop()
    # 25 % of 4: one more at most, one less at most.
    assert max(wanted for wanted, _ in seen) == 5
    assert min(ready for _, ready in seen) >= 3
    assert {c["image"] for pod in cluster.store.objects(POD) for c in pod["spec"]["containers"]} == {"web:2"}
    revisions = [rs["spec"]["replicas"] for rs in cluster.store.objects(REPLICA_SET)]
    assert sorted(revisions) == [0, 4]


def test_a_crashing_container_backs_off_longer_and_longer(cluster: Cluster) -> None:
    deploy(cluster, 1, **{CRASH_AFTER: "5"})
    live_through(cluster, 3600)
    (pod,) = cluster.store.objects(POD)
    (container,) = pod["status"]["containerStatuses"]
    # 10, 20, 40, 80, 160 and then 300 s of back-off, each after 5 s of running.
    assert container["restartCount"] == 15
    assert container["lastState"]["terminated"]["exitCode"] == 1
    backoffs = [event for event in cluster.store.objects(EVENT) if event["reason"] == "BackOff"]
    assert [(event["type"], event["count"]) for event in backoffs] == [("Warning", 16)]


def test_a_namespace_takes_everything_in_it_along(cluster: Cluster) -> None:
    cluster.writer.create(NAMESPACE, "", {"metadata": {"name": "doomed"}}, OPERATOR)
    deploy(cluster, 1)
    pod = {"metadata": {"name": "lone"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    cluster.writer.create(POD, "doomed", pod, OPERATOR)
    live_through(cluster, 10)
    cluster.writer.delete(NAMESPACE, cluster.store.read(NAMESPACE, "", "doomed"), {})
    live_through(cluster, 60)
    assert cluster.store.get(NAMESPACE, "", "doomed") is None
    assert {obj["metadata"]["namespace"] for kind in (POD, EVENT) for obj in cluster.store.objects(kind)} == {"default"}


@pytest.mark.parametrize(("policy", "pods_left"), [("Background", 0), ("Foreground", 0), ("Orphan", 2)])
def test_deleting_an_owner(cluster: Cluster, policy: str, pods_left: int) -> None:
    deployment = deploy(cluster, 2)
    live_through(cluster, 60)
    current = cluster.store.read(DEPLOYMENT, "default", deployment["metadata"]["name"])
    cluster.writer.delete(DEPLOYMENT, current, {"propagationPolicy": policy})
    live_through(cluster, 60)
    assert not cluster.store.objects(DEPLOYMENT)
    assert len(cluster.store.objects(POD)) == pods_left

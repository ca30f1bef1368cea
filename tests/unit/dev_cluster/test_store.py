"""The store: versions, history, deletion that waits; protobuf bodies."""

from typing import Any

import pytest

from services.dev_cluster import protobuf
from services.dev_cluster.clock import Clock
from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import CONFIG_MAP, POD
from services.dev_cluster.store import Store


@pytest.fixture
def store() -> Store:
    return Store(Clock())


def config_map(name: str = "a", **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x"} | meta, "data": {}}


def test_a_write_needs_the_current_version_or_none(store: Store) -> None:
    first = store.create(CONFIG_MAP, config_map())
    second = store.update(CONFIG_MAP, first | {"data": {"k": "1"}})
    with pytest.raises(ApiError) as refused:
        store.update(CONFIG_MAP, first | {"data": {"k": "2"}})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert store.read(CONFIG_MAP, "x", "a") == second


def test_a_write_that_changes_nothing_is_no_write(store: Store) -> None:
    first = store.create(CONFIG_MAP, config_map())
    version = store.version
    assert store.update(CONFIG_MAP, first) == first
    assert store.version == version


def test_a_dry_run_leaves_no_trace(store: Store) -> None:
    store.create(CONFIG_MAP, config_map(), dry_run=True)
    assert store.get(CONFIG_MAP, "x", "a") is None
    made = store.create(CONFIG_MAP, config_map())
    store.update(CONFIG_MAP, made | {"data": {"k": "1"}}, dry_run=True)
    store.delete(CONFIG_MAP, made, dry_run=True)
    assert store.read(CONFIG_MAP, "x", "a") == made


def test_finalizers_hold_a_deletion_back(store: Store) -> None:
    made = store.create(CONFIG_MAP, config_map(finalizers=["x/y"]))
    left = store.delete(CONFIG_MAP, made)
    assert left["metadata"]["deletionTimestamp"]
    store.update(CONFIG_MAP, left | {"metadata": left["metadata"] | {"finalizers": []}})
    assert store.get(CONFIG_MAP, "x", "a") is None


def test_a_pod_goes_after_its_grace_period_or_at_once_without_one(store: Store) -> None:
    pod = store.create(POD, config_map() | {"kind": "Pod"})
    assert store.delete(POD, pod, grace=30)["metadata"]["deletionGracePeriodSeconds"] == 30
    assert store.get(POD, "x", "a") is not None
    store.delete(POD, pod, grace=0)
    assert store.get(POD, "x", "a") is None


def test_history_is_complete_or_gone(store: Store) -> None:
    start = store.version
    made = store.create(CONFIG_MAP, config_map())
    store.update(CONFIG_MAP, made | {"data": {"k": "1"}})
    store.delete(CONFIG_MAP, made)
    assert [change.type for change in store.since(start)] == ["ADDED", "MODIFIED", "DELETED"]
    with pytest.raises(ApiError) as refused:
        store.since(1)
    assert refused.value.code == 410


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3]) + bytes([value])
    return bytes([number << 3 | 2, len(value)]) + value


def body(kind: str, message: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, b"v1") + field(2, kind.encode())) + field(2, message)


def test_protobuf_bodies() -> None:
    meta = field(1, field(1, b"s") + field(8, b"") + field(11, field(1, b"k") + field(2, b"v")))
    secret = meta + field(2, field(1, b"p") + field(2, b"\x00\x01")) + field(3, b"") + field(5, 0)
    assert protobuf.decode(body("Secret", secret)) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "labels": {"k": "v"}},
        "data": {"p": "AAE="},
        "immutable": False,
    }


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{}", 400),
        (b"k8s\x00", 400),
        (b"k8s\x00\x0a\xff", 400),
        (body("Secret", b"\x0a\x7f"), 400),
        (body("Secret", b"\xff" * 20), 400),
        (body("Unicorn", b""), 415),
        (body("Secret", field(9, b"unknown")), 415),
    ],
)
def test_protobuf_that_cannot_be_read_is_refused(raw: bytes, code: int) -> None:
    with pytest.raises(ApiError) as refused:
        protobuf.decode(raw)
    assert refused.value.code == code

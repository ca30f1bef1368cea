"""Selectors choose what kube-apiserver would choose; paths mean what they say."""

import pytest

from services.dev_cluster import paths, selectors
from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import POD

LABELS = {"app": "web", "tier": "front", "n": "2"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier!=back", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("n in (1, 2)", True),
        ("n notin (1,2)", False),
        ("missing notin (x)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("app=", False),
        ("app=web,n in (3)", False),
    ],
)
def test_label_selectors(selector: str, chosen: bool) -> None:
    assert selectors.parse_labels(selector)(LABELS) is chosen


@pytest.mark.parametrize(
    "selector", ["=", "app in", "app in web", "app=web;tier=x", "app=web tier=x", "a b", ",", "-a"]
)
def test_label_selectors_that_cannot_be_read_choose_nothing(selector: str) -> None:
    with pytest.raises(ApiError) as refused:
        selectors.parse_labels(selector)
    assert refused.value.code == 400


def test_a_label_selector_object_that_is_absent_selects_nothing() -> None:
    assert not selectors.matches_selector(None, LABELS)
    expression = {"matchExpressions": [{"key": "n", "operator": "In", "values": ["2"]}]}
    assert selectors.matches_selector(expression, LABELS)


def test_field_selectors() -> None:
    pod = {"metadata": {"name": "a", "namespace": "x"}, "spec": {}, "status": {"phase": "Running"}}
    for text, chosen in {
        "metadata.name=a": True,
        "metadata.name!=a": False,
        "status.phase=Running,spec.nodeName=": True,
        "status.phase!=Running": False,
    }.items():
        assert selectors.parse(POD, "", text)(pod) is chosen
    with pytest.raises(ApiError, match=r'field label not supported: "spec\.foo"'):
        selectors.parse(POD, "", "spec.foo=bar")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods", ("list", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/x/pods", ("list", "pods", "", "x", "")),
        ("GET", "/api/v1/namespaces/x/pods/p/log", ("get", "pods", "log", "x", "p")),
        ("POST", "/api/v1/namespaces/x/pods/p/eviction", ("create", "pods", "eviction", "x", "p")),
        ("GET", "/api/v1/namespaces/x", ("get", "namespaces", "", "x", "x")),
        ("PUT", "/api/v1/namespaces/x/finalize", ("update", "namespaces", "finalize", "x", "x")),
        ("DELETE", "/apis/apps/v1/namespaces/x/deployments", ("deletecollection", "deployments", "", "x", "")),
        ("PATCH", "/apis/apps/v1/namespaces/x/deployments/d/scale", ("patch", "deployments", "scale", "x", "d")),
        ("GET", "/api/v1/namespaces/x/pods/a%2Flog", ("get", "pods", "", "x", "a/log")),
    ],
)
def test_paths(method: str, path: str, expected: tuple[str, ...]) -> None:
    target = paths.parse(method, path)
    assert target is not None
    action = target.action
    assert (action.verb, action.resource, action.subresource, action.namespace, action.name) == expected


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/unicorns", 404),
        ("GET", "/api/v1/namespaces/x/nodes", 404),
        ("GET", "/api/v1/namespaces/x/pods/p/exec", 404),
        ("GET", "/apis/apps/v2/deployments", 404),
        ("POST", "/api/v1/pods", 405),
        ("POST", "/api/v1/namespaces/x/pods/p", 405),
        ("DELETE", "/api/v1/pods", 405),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ("GET", "/api/v1/namespaces/x/pods/p/eviction", 405),
        ("DELETE", "/api/v1/namespaces/x/pods/p/log", 405),
    ],
)
def test_paths_that_are_not_served(method: str, path: str, code: int) -> None:
    with pytest.raises(ApiError) as refused:
        paths.parse(method, path)
    assert refused.value.code == code


def test_a_watch_or_a_list_of_one_name_is_authorized_by_that_name() -> None:
    target = paths.parse("GET", "/api/v1/namespaces/x/pods", watch=True, field_selector="metadata.name=p")
    assert target is not None
    assert (target.verb, target.name) == ("watch", "p")

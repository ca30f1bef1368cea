"""As whom the core acts in the cluster, and what may stand in a path (R1, R2)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PermissionDenied
from services.mcp_core.naming import DNS1123_LABEL, DNS1123_SUBDOMAIN, impersonation, is_path_segment


@pytest.mark.req("R2")
def test_a_caller_is_issuer_and_subject_in_the_group_of_the_role_that_allowed() -> None:
    found = impersonation("kubegate", "alice", "viewer", "r1")
    assert (found.user, found.groups) == ("kubegate:kubegate:alice", ("kubegate:role:viewer",))
    assert impersonation("kubegate", "alice", "", "r1").groups == ("kubegate:direct",)


@pytest.mark.req("R2")
@pytest.mark.parametrize(
    ("issuer", "subject", "role"),
    [
        ("kubegate", "system:masters", "viewer"),
        ("kubegate", "System:admin", "viewer"),
        ("system:serviceaccount", "alice", "viewer"),
        ("kubegate", "alice", "system:masters"),
        ("kubegate", "alice\r\nImpersonate-Group: system:masters", "viewer"),
        ("kubegate", "alice\x00", "viewer"),
        ("kubegate", "alice\u200b", "viewer"),
        ("kubegate", "alice ", "viewer"),
        ("kubegate", "", "viewer"),
        ("", "alice", "viewer"),
        ("kubegate", "a" * 600, "viewer"),
        ("kubegate", "alice", "r" * 600),
    ],
)
def test_reserved_over_long_and_unprintable_names_are_refused(issuer: str, subject: str, role: str) -> None:
    with pytest.raises(PermissionDenied):
        impersonation(issuer, subject, role, "r1")


_PARTS = st.text(alphabet="ab:%/3A", min_size=1, max_size=6)


@pytest.mark.req("R1")
@given(_PARTS, _PARTS, _PARTS, _PARTS)
def test_two_identities_never_share_a_name(issuer1: str, subject1: str, issuer2: str, subject2: str) -> None:
    one, two = impersonation(issuer1, subject1, "", "r"), impersonation(issuer2, subject2, "", "r")
    assert (one.user == two.user) == ((issuer1, subject1) == (issuer2, subject2))


@pytest.mark.parametrize("name", [".", "..", "a/b", "a%2fb", "", "a..b", "-a", "a b", "a\n", "a?b"])
def test_what_could_change_a_path_is_no_segment(name: str) -> None:
    assert not is_path_segment(name)


@given(st.from_regex(DNS1123_LABEL) | st.from_regex(DNS1123_SUBDOMAIN))
def test_every_kubernetes_name_is_a_segment(name: str) -> None:
    name = name.removesuffix("\n")
    assert is_path_segment(name) == (len(name) <= 253)
    assert re.search(DNS1123_SUBDOMAIN, name)

"""API keys: only the right secret of a living key passes, and nothing tells how near a guess was."""

import hmac
import re
from datetime import timedelta

import pytest

from services.authn.adapters import api_key
from services.authn.adapters.api_key import ApiKeyAuthenticator, Pepper
from services.authn.errors import PUBLIC_MESSAGE, Reason, Rejected
from services.authn.model import NamespaceScope
from tests.unit.authn.support import MAKER, NOW, PEPPER, Keys, make_key, token


@pytest.mark.req("I2.3")
async def test_a_key_proves_the_principal_of_its_record() -> None:
    record, text = make_key(tenant="t1", permissions=("k8s:pods:list",), namespaces=NamespaceScope(False, ("dev",)))
    keys = Keys(record)
    principal = await ApiKeyAuthenticator(keys, PEPPER).authenticate(token(text), NOW)
    assert (principal.issuer, principal.subject) == ("kubegate", "alice")
    assert (principal.credential_id, principal.auth_type) == (record.id, "api_key")
    assert principal.roles == ("viewer",)
    assert principal.permissions == ("k8s:pods:list",)
    assert principal.namespaces == NamespaceScope(False, ("dev",))
    assert principal.tenant == "t1"
    assert principal.auth_time == NOW
    assert keys.touched == [record.id]


def test_the_form_is_fixed() -> None:
    _, text, mac, _ = MAKER.make()
    assert re.fullmatch(r"kg_[0-9A-Za-z]+_[0-9A-Za-z]{43}", text.reveal())
    assert len(mac) == 32


@pytest.mark.req("I2.3", "R9")
def test_only_a_mac_is_kept_and_it_is_bound_to_id_and_pepper() -> None:
    record, text = make_key()
    secret = text.rpartition("_")[2]
    assert secret not in repr(record)
    assert record.mac.hex() not in repr(record)
    assert PEPPER.mac(record.id, secret) == record.mac
    assert PEPPER.mac("0" * 12, secret) != record.mac
    assert Pepper(b"q" * 32).mac(record.id, secret) != record.mac
    assert Pepper(b"q" * 32).version != PEPPER.version == record.pepper_version


@pytest.mark.req("I2.3")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"enabled": False}, Reason.DISABLED),
        ({"expires_at": NOW}, Reason.EXPIRED),
        ({"expires_at": NOW - timedelta(days=1)}, Reason.EXPIRED),
        ({"mac": bytes(32)}, Reason.MISMATCH),
    ],
)
async def test_a_dead_key_is_refused(change: dict[str, object], reason: Reason) -> None:
    record, text = make_key(**change)
    keys = Keys(record)
    with pytest.raises(Rejected) as caught:
        await ApiKeyAuthenticator(keys, PEPPER).authenticate(token(text), NOW)
    assert caught.value.reason is reason
    assert caught.value.public_message == PUBLIC_MESSAGE
    assert caught.value.credential_id == record.id
    assert keys.touched == []


async def test_a_key_lives_until_its_end() -> None:
    record, text = make_key(expires_at=NOW + timedelta(seconds=1))
    principal = await ApiKeyAuthenticator(Keys(record), PEPPER).authenticate(token(text), NOW)
    assert principal.expires_at == record.expires_at


@pytest.mark.req("I2.3")
@pytest.mark.parametrize("known", [True, False])
async def test_unknown_and_known_ids_cost_the_same_work(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Counted:
        @staticmethod
        def digest(*args: object) -> bytes:
            done.append("mac")
            return hmac.digest(*args)  # type: ignore[arg-type]

        @staticmethod
        def compare_digest(left: bytes, right: bytes) -> bool:
            done.append(f"compare {len(left)} {len(right)}")
            return hmac.compare_digest(left, right)

    record, text = make_key()
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    monkeypatch.setattr(api_key, "hmac", Counted)
    with pytest.raises(Rejected):
        await ApiKeyAuthenticator(Keys(*[record] if known else []), PEPPER).authenticate(token(wrong), NOW)
    assert done == ["mac", "compare 32 32"]


async def test_an_unknown_id_with_the_mac_of_nothing_is_still_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret whose MAC were all zeros must not open the door that stands in for unknown ids."""
    _, text = make_key()
    monkeypatch.setattr(Pepper, "mac", lambda *_: bytes(32))
    with pytest.raises(Rejected) as caught:
        await ApiKeyAuthenticator(Keys(), PEPPER).authenticate(token(text), NOW)
    assert caught.value.reason is Reason.UNKNOWN
    assert caught.value.credential_id == ""


@pytest.mark.req("I2.3")
@pytest.mark.parametrize(
    "spoil", [str.upper, lambda t: t + "\n", lambda t: t[:-1], lambda t: "kg_" + t, lambda t: t + "x"]
)
async def test_a_spoilt_key_is_malformed(spoil: object) -> None:
    record, text = make_key()
    with pytest.raises(Rejected) as caught:
        await ApiKeyAuthenticator(Keys(record), PEPPER).authenticate(token(spoil(text)), NOW)  # type: ignore[operator]
    assert caught.value.reason in (Reason.MALFORMED, Reason.UNKNOWN)

"""Obvious secrets leave no trace; ordinary lines stay readable (R26)."""

import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mcp_core import redaction
from services.mcp_core.redaction import MARK, redact

CANARY = "CANARY9x7q"

SECRETS = [
    "password={}",
    "DB_PASSWORD='{} with words'",
    'password="a\\"{}"',
    '{{"password": "{}", "user": "bob"}}',
    '{{\\"password\\":\\"{} x\\",\\"user\\":1}}',
    "{{'client_secret': '{}'}}",
    "accessToken: '{}'",
    "token => {}",
    "aws_secret_access_key = {}",
    "password: correct {} battery staple",
    "  - secret: {}",
    "client-key-data: {}",
    "AccountKey={}==;EndpointSuffix=core.windows.net",
    "Server=db;Password={};User=sa",
    "GET /callback?state=1&token={}&x=1",
    "https://blob.example/x?sv=1&sig={}",
    "starting: server --password {} --verbose",
    "starting: server --api-key={}",
    "Authorization: Bearer {}",
    "authorization: Basic {}== and more",
    '"Authorization": "Bearer {}"',
    "Proxy-Authorization: Digest user {}",
    "X-Api-Key: {}",
    "Set-Cookie: sid={}; Path=/",
    "sent bearer {} upstream",
    "postgres://app:{}@db:5432/app",
    "postgres://app:p@{}@db",
    "redis://:{}@cache:6379",
    "https://{}@github.com/acme/x",
    "pass\x1b[31mword={}",
    "pass\x00word={}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\ncut here",
    "{}\nMIIE\n-----END PRIVATE KEY-----\nstarted",
    "jwt eyJhbGciOi{0}.eyJzdWIi{0}.{0}",
    "key kg_abc123_{}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "cloned with ghp_{}aaaaaaaaaaaaaaaaaaaaaaaaaa",
    "password  =  {}",
    "password\t=\t{}",
    '{{"password":  "{}"}}',
    '{{"password":["{}"]}}',
    '{{"password": [{{"value": "a]{}"}}], "user": "bob"}}',
    '{{\\"password\\":[\\"{}\\"]}}',
    "<password>{}</password>",
    '<db:password type="text">{}</db:password>',
    '{{"name":"DB_PASSWORD","value":"{}"}}',
    '"name": "DB_PASSWORD",\n  "value": "{}"',
    "- name: DB_PASSWORD\n  value: {}",
    'Cookie: sid="{0}"; b="{0}"',
    'Authorization: Digest username="bob", response="{}"',
    "password: |\n    one\n\n    {}",
    "  - secret: >-\n      {}",
    "token=" + "\\" * 40 + '"{} x',
    "openai sk-proj-{}aaaaaaaaaaaaaa",
]


@pytest.mark.req("R26")
@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("place", ["{}", "before\n{}\nafter", "2026-11-22T10:00:00Z ERROR main: {}"])
def test_a_secret_leaves_no_trace(text: str, place: str) -> None:
    clean = redact(place.format(text.format(CANARY)))
    assert CANARY not in clean
    assert MARK in clean


@pytest.mark.parametrize(
    "line",
    [
        "GET /healthz 200 3ms token_count=5",
        "Bearer authentication failed for bob",
        "basic auth enabled",
        "secret not found",
        'secrets "db" is forbidden: User "kubegate:kubegate:alice" cannot get resource',
        "listening on https://10.0.0.1:8443/path?page=2",
        "monkey: banana, design: round, bypass: on",
        "naïve café ✓\twith tab",
        "skipped risk-assessment and xoxo",
    ],
)
def test_an_ordinary_line_stays(line: str) -> None:
    assert redact(line) == line


def test_only_the_value_goes() -> None:
    assert redact("user=bob password=x1 host=db") == f"user=bob password={MARK} host=db"
    assert redact('{"password":"x","user":"bob"}') == f'{{"password":{MARK},"user":"bob"}}'
    assert redact("postgres://app:pw@db:5432/x") == f"postgres://{MARK}@db:5432/x"


def test_terminal_escapes_and_control_characters_go() -> None:
    assert redact("\x1b[1;31mred\x1b[0m \x1b]0;title\x07bell\x07\rend\u009b") == "red bellend"


@pytest.mark.parametrize("length", [10, 20_000])
async def test_a_large_text_is_redacted_beside_the_event_loop(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def spy(text: str) -> str:
        threads.append(threading.get_ident())
        return text

    monkeypatch.setattr(redaction, "redact", spy)
    await redaction.redact_aside("a" * length)
    assert (threads == [threading.get_ident()]) is (length == 10)


@given(st.text())
def test_it_never_fails_and_is_stable(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1), st.integers(0, 5))
def test_lines_stay_lines(word: str, lines: int) -> None:
    assert redact("\n".join([word] * (lines + 1))).count("\n") == lines


HOSTILE = [
    "token=" + "\\" * 85_000 + '"' + ("\\" * 84_999 + "a") * 2,
    "-" * 256_000 + " key: ",
    "key: " + "-" * 256_000,
    "secret " + "--a" * 85_000,
    "key " + "connection-" * 23_000,
    "cookie=" + ("cookie" + "\\" * 20) * 10_000,
    'cookie a="' * 25_000,
    'password:["' * 25_000,
    "<password" * 28_000,
    "name: password" * 18_000,
    "name: password\n" * 17_000,
    "password: |\n" * 23_000,
    "password:" + " " * 256_000,
    "-" * 64 + "a" * 256_000 + "password: |",
    "://" + "a:" * 128_000,
    "\x1b[" + "0" * 256_000,
    "-----BEGIN PRIVATE KEY-----" * 9_400,
]


@pytest.mark.req("R26")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_text_of_256_kb_comes_back(number: int) -> None:
    """Under the ordinary time-out: the first took half a minute, and minutes at twice the length."""
    assert redact(HOSTILE[number] * 2)


PIECES = ["token", "key", "pass", "name", "value", "cookie", "auth", ":", "=", "-", "\\", '"', "'", " ", "[", "<", ">",
          ",", "|", "://", "@", "eyJ", "kg_", "a", "\n", "\x1b[", "-----BEGIN ", "PRIVATE KEY"]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.lists(st.sampled_from(PIECES), max_size=4))
def test_no_repetition_of_what_rules_look_for_is_slow(head: list[str], repeated: list[str]) -> None:
    redact("".join(head) + "".join(repeated) * 10_000 + "".join(head))


@pytest.mark.parametrize("rule", [pattern for _, pattern, _ in redaction._RULES])
def test_a_run_that_the_next_start_scans_again_is_bounded(rule: re.Pattern[str]) -> None:
    """Backslashes are compared at every character of a value, dashes at every start of a name."""
    assert not re.search(r"\\\\[*+]|-\][*+]", rule.pattern)

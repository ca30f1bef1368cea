"""Obvious secrets leave no trace; ordinary lines stay readable (R26)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.text())
def test_it_never_fails_and_is_stable(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1), st.integers(0, 5))
def test_lines_stay_lines(word: str, lines: int) -> None:
    assert redact("\n".join([word] * (lines + 1))).count("\n") == lines

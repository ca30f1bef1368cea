"""A real OpenID provider (npm oidc-provider) in a process of its own, and somebody who signs in at it.

Its signing keys are ours, so that a test can also sign what the provider never would.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt
from jwt.algorithms import ECAlgorithm

from services.authn.adapters.signing_keys import SigningKey, generate
from services.cli.pki import Authority
from tests.fakes.npm import NODE, installed

PACKAGES = Path(__file__).parents[1] / "openid"
PATIENCE = 60.0
CALLBACK = "https://client.example/callback"
PERSON = "agent-client"
"""Id of the public client with which people sign in."""
ROBOT, ROBOT_SECRET = "robot-client", "a secret of the robot, 32 characters"


@dataclass
class OpenIdProvider:
    """``scopes``: those of the resource. ``url``: its issuer, when it has been started."""

    directory: Path
    scopes: tuple[str, ...]
    keys: list[SigningKey] = field(default_factory=lambda: [generate("ES256")])
    url: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca" / "ca.crt"

    def start(self) -> None:
        """Starts it with the keys that it has now, at the address that it had before."""
        authority = Authority.open(self.directory / "ca", "provider CA")
        authority.server("localhost", ("localhost", "127.0.0.1")).write(self.directory, authority.certificate)
        announce = self.directory / "announce"
        announce.unlink(missing_ok=True)
        settings = {
            "packages": str(installed(PACKAGES)),
            "port": urlsplit(self.url).port or 0,
            "cert": str(self.directory / "tls.crt"),
            "key": str(self.directory / "tls.key"),
            "announce": str(announce),
            "scopes": self.scopes,
            "jwks": {"keys": [_private(key) for key in self.keys]},
            "clients": [
                {
                    "client_id": PERSON,
                    "token_endpoint_auth_method": "none",
                    "redirect_uris": [CALLBACK],
                    "grant_types": ["authorization_code", "refresh_token"],
                    "id_token_signed_response_alg": "ES256",
                },
                {
                    "client_id": ROBOT,
                    "client_secret": ROBOT_SECRET,
                    "redirect_uris": [],
                    "response_types": [],
                    "grant_types": ["client_credentials"],
                    "id_token_signed_response_alg": "ES256",
                },
            ],
        }
        path = self.directory / "settings.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen([NODE, str(PACKAGES / "provider.mjs"), str(path)], stdout=log, stderr=log)
        log.close()
        end = time.monotonic() + PATIENCE
        while not announce.exists():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, "the provider does not start"
            time.sleep(0.05)
        self.url = announce.read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def roll_over(self) -> SigningKey:
        """Signs with another key from now on; the old one is published no more. Gives the old one."""
        (old,) = self.keys
        self.keys = [generate("ES256")]
        self.stop()
        self.start()
        return old

    def token(self, audience: str, scope: str, key: SigningKey | None = None, **changes: Any) -> str:
        """An access token as the provider signs them, with claims changed; ``None`` leaves one out."""
        now = datetime.now(UTC)
        claims = {
            "iss": self.url,
            "aud": audience,
            "sub": "alice",
            "client_id": PERSON,
            "jti": f"test-{time.monotonic_ns()}",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()),
            "scope": scope,
        } | changes
        signing = key or self.keys[0]
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, signing.private, algorithm="ES256", headers={"typ": "at+jwt", "kid": signing.kid})

    def sign_in(self, url: str, name: str) -> dict[str, str]:
        """What a browser does at the authorization URL for somebody who consents: what comes back to the client."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as browser:
            response = browser.get(url)
            for _ in range(20):
                if response.is_redirect:
                    url = urljoin(str(response.url), response.headers["location"])
                    if url.startswith(CALLBACK):
                        return {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
                    response = browser.get(url)
                    continue
                assert response.status_code == 200, response.text
                action = re.search(r'<form[^>]*action="([^"]+)"', response.text)
                assert action, response.text
                prompt = "login" if 'name="login"' in response.text else "consent"
                form = {"prompt": prompt} | ({"login": name, "password": "any"} if prompt == "login" else {})
                response = browser.post(urljoin(str(response.url), unescape(action[1])), data=form)
        raise AssertionError("the provider asks for ever")


def _private(key: SigningKey) -> dict[str, Any]:
    entry: dict[str, Any] = ECAlgorithm.to_jwk(key.private, as_dict=True)
    return {**entry, "kid": key.kid, "use": "sig", "alg": "ES256"}

"""The configuration that docs/identity-providers.md shows is one that the services know (I6.28)."""

import re
from pathlib import Path

import pytest
import yaml

from services.authn.config import AuthnConfig, CertificateConfig
from services.mcp_core.config import Config

GUIDE = (Path(__file__).parents[2] / "docs" / "identity-providers.md").read_text(encoding="utf-8")


@pytest.mark.req("I6.28")
def test_every_key_of_the_guide_is_a_key_of_its_service() -> None:
    core, authn = (
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    )
    assert set(core) <= set(Config.model_fields)
    assert set(authn) <= set(AuthnConfig.model_fields)
    names = [CertificateConfig.model_validate(each).name for each in authn["certificates"]]
    assert names == ["spiffe://example.com/ci", "CN=nightly"]

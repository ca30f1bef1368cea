"""The configuration of the development cluster: one YAML file, unknown keys refused, all problems told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class ConfigError(Exception):
    """The configuration cannot be used; the message names every reason."""


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError('must be "HOST:PORT"')
    return text


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


ExistingFile = Annotated[Path, AfterValidator(_file)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Model):
    """Server certificate, and the CA whose client certificates are users (CN = user, O = groups)."""

    cert_file: ExistingFile
    key_file: ExistingFile
    client_ca_file: ExistingFile


class Config(_Model):
    """Everything that can be configured. Port 0 takes a free port, told in `address_file`."""

    listen: Annotated[str, AfterValidator(_listen)]
    tls: Tls
    address_file: Path | None = None
    manifests: tuple[ExistingFile, ...] = ()
    seed: bool = True
    time_scale: float = Field(default=1.0, gt=0, le=100)

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])


def load(path: Path) -> Config:
    """Reads the configuration; ConfigError names the file and everything that is wrong with it."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    try:
        return Config.model_validate(data if data is not None else {})
    except ValidationError as error:
        problems = [f"  {_where(e['loc'])}: {_what(e['type'], e['msg'])}" for e in error.errors()]
        raise ConfigError(f"{path} cannot be used:\n" + "\n".join(problems)) from error


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(file)"


def _what(type_: str, message: str) -> str:
    if type_ == "extra_forbidden":
        return "unknown key"
    return message.removeprefix("Value error, ")

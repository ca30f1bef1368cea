"""Configuration files: YAML into frozen models, with every problem reported at once."""

import os
import stat
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml

from services.common.runtime_errors import ConfigError

__all__ = ["ConfigError", "FilePath", "ListenAddress", "Model", "PeerAddress", "TlsFiles", "load_config", "read_secret"]


class Model(pydantic.BaseModel):
    """Base of all configuration models: immutable, and unknown keys are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _resolve(value: Path, info: pydantic.ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    return Path(base, value)


FilePath = Annotated[Path, pydantic.AfterValidator(_resolve)]
"""A path; relative ones start from the directory of the configuration file."""


ListenAddress = Annotated[str, pydantic.Field(pattern=r"^[^\s]+:\d{1,5}$")]
"""Address to serve on, ``host:port``; port 0 takes a free one."""


class TlsFiles(Model):
    """Certificate, private key and the CA that peers must come from, as PEM files."""

    cert_file: FilePath
    key_file: FilePath
    ca_file: FilePath

    def missing(self) -> list[str]:
        """One line for each file that cannot be read, naming its key and path."""
        return [
            f"{key}: cannot read {path}"
            for key, path in (
                ("cert_file", self.cert_file),
                ("key_file", self.key_file),
                ("ca_file", self.ca_file),
            )
            if not os.access(path, os.R_OK)
        ]


class PeerAddress(Model):
    """Where another service listens, and the DNS name that its certificate must carry (R7)."""

    address: str = pydantic.Field(pattern=r"^[^\s:]+:\d{1,5}$", description="host:port")
    server_name: str


M = TypeVar("M", bound=Model)


def load_config(model: type[M], path: Path) -> M:
    """Reads a configuration file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or breaks the model; it lists every problem with
            the key it concerns.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from error
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ConfigError(
            path,
            [f"{place}not valid YAML: {getattr(error, 'problem', None) or 'syntax error'}"],
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(path, ["must hold a mapping of keys to values"])
    try:
        config = model.model_validate(data, context={"base": path.resolve().parent})
    except pydantic.ValidationError as error:
        raise ConfigError(path, [_problem(item, model) for item in error.errors()]) from error
    missing = list(_missing_files("", config))
    if missing:
        raise ConfigError(path, missing)
    return config


def _problem(item: Any, model: type[Model]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) if len(item["loc"]) == 1 else "see the documentation of its parent"
        return f"{key}: unknown key (known: {known})"
    if item["type"] == "missing":
        return f"{key}: required key is missing"
    return f"{key}: {item['msg']}"


def _missing_files(prefix: str, config: Model) -> list[str]:
    problems: list[str] = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TlsFiles):
            problems += [
                f"{prefix}{name}.{line}; `kubegate up` and `kubegate certs rotate` make it again"
                for line in value.missing()
            ]
        elif isinstance(value, Model):
            problems += _missing_files(f"{prefix}{name}.", value)
    return problems


def read_secret(path: Path) -> bytes:
    """The contents of a secret file, one trailing newline removed.

    Raises:
        ConfigError: it cannot be read, is empty, or others than its owner may read it.
    """
    try:
        mode = path.stat().st_mode
        value = path.read_bytes().removesuffix(b"\n")
    except OSError as error:
        raise ConfigError(path, [f"secret file cannot be read: {error.strerror}"]) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            path,
            [f"secret file may be read by others (mode {mode & 0o777:04o}); run `chmod 600 {path}`"],
        )
    if not value:
        raise ConfigError(path, ["secret file is empty"])
    return value

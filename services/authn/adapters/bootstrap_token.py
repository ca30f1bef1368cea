"""The one-time bootstrap token, read from its file when it is needed, so that the file may go afterwards."""

from pathlib import Path

from services.authn.model import Secret
from services.common.config import read_secret
from services.common.errors import FailedPrecondition
from services.common.log import get_logger
from services.common.runtime_errors import ConfigError

log = get_logger("bootstrap")


class BootstrapTokenFile:
    """``None`` as path: no token is set up."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> Secret | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            return Secret(read_secret(self._path).decode("utf-8"))
        except (ConfigError, UnicodeDecodeError) as error:
            log.error("bootstrap token unusable", reason=str(error))
            raise FailedPrecondition(
                "The bootstrap token cannot be read; the log of the authn service says why."
            ) from None

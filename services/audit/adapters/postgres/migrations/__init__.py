"""The tables, by Alembic. Replicas that start together take turns."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from services.common.postgres import UNANSWERED
from services.common.runtime_errors import StartupError

LOCK = 0x6B676175
"""Advisory lock of whoever migrates: "kgau"."""


def migrate(url: str, name: str) -> None:
    """Brings the tables to the newest version; ``name`` is how messages call the database.

    Raises:
        StartupError: it cannot be reached, or the tables are not ours to change.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(
        "postgresql+psycopg://" + url.partition("://")[2], poolclass=NullPool, connect_args=UNANSWERED
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        # The exception's own text may hold the URL.
        reason = str(getattr(error, "orig", None) or type(error).__name__).strip().partition("\n")[0]
        raise StartupError(f"{name}: the audit tables cannot be made or brought up to date: {reason}") from error
    finally:
        engine.dispose()

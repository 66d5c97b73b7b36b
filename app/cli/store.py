"""The store of this machine, opened by commands: beside a gateway that runs, or without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import Misconfigured, StoreUnavailable

if TYPE_CHECKING:
    from app.database import Database
    from app.settings import Settings


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The store; made, or brought to this version's schema, where no gateway holds it.

    One that others share is made, and else left as it is: `db upgrade` decides for all of them.

    Raises:
        StoreUnavailable: It cannot be used, or the gateway that holds it is of another version.
    """
    from app.database import Database, translated
    from app.instance import sole_instance
    from app.schema import current_revision, revisions, upgrade

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.store_url)
    try:
        with translated():
            current, newest = (
                current_revision(database.engine),
                revisions(settings.migrations_dir)[-1],
            )
            if settings.is_shared and current not in {None, newest}:
                raise StoreUnavailable(
                    f"The shared store has schema {current}, and this version {newest}. "
                    "`steadydancer db upgrade` of the newer version brings it up to date."
                )
            if current != newest:
                with sole_instance(settings.data_dir):
                    upgrade(database.engine, settings.migrations_dir)
        database.open()
        yield database
    finally:
        database.close()


def sqlite_file(settings: Settings) -> Path:
    """The store's file.

    Raises:
        Misconfigured: It is on a server, which has tools of its own for this.
    """
    if not settings.store_url.startswith("sqlite"):
        raise Misconfigured(
            "The store is on a PostgreSQL server, which has tools of its own: `pg_dump -Fc` makes "
            "a backup while gateways run, `pg_restore` puts it into an empty database."
        )
    return Path(settings.store_url.removeprefix("sqlite:///"))

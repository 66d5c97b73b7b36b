"""An empty store at the newest schema, made once for each process that runs tests."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from app.database import Database
from app.schema import upgrade

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


@functools.cache
def empty_store() -> Path:
    """A SQLite file to be copied, made by the migrations."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "gateway.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database.engine, MIGRATIONS)
    database.close()
    return path

"""``--restart``: the state of an earlier run is put out of the way, unless this is its sequel."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from fracjax.errors import UsageError
from fracjax_jobs.state import HELD_BY_ANOTHER, RESTARTING, checksum, in_use


def set_aside(path: Path, claim: Mapping[str, Any]) -> None:
    """Put a state out of the way, so that the next run begins anew.

    One that was itself begun so, under the same claim, and has not come to its end stays: the
    same command goes on with it.

    Raises:
        UsageError: Another run uses it, or it cannot be renamed.
    """
    if not path.is_file() or path.is_symlink():
        return
    old = path.with_name(f"{path.name}.old")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=1.0)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
            begun = database.execute(
                "SELECT claim FROM run WHERE EXISTS (SELECT 1 FROM kept WHERE name = ?)",
                (RESTARTING,),
            ).fetchone()
            is_same = begun is not None and json.loads(begun[0]) == json.loads(json.dumps(claim))
            if is_same and _is_sound(database):
                return
        except (sqlite3.Error, ValueError) as error:  # of damage, it is put away all the more
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in HELD_BY_ANOTHER:
                raise in_use(path) from None
        try:
            path.replace(old)
            # A journal left behind would be rolled back into the new state.
            path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be put aside as {old}: {error.strerror}; mend that, or give "
                "another --out"
            ) from None


def _is_sound(database: sqlite3.Connection) -> bool:
    """Whether a state can be gone on with: what a run would find out on its way."""
    if database.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        return False
    rows = chain(database.execute("SELECT * FROM run"), database.execute("SELECT * FROM image"))
    return all(checksum(row) == kept for *row, kept in rows)

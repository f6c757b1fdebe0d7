"""Rows on their way from one order into another, on disk: they need no memory, however many."""

import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from fracjax.errors import JobError

Key = tuple[int | float | str, int | float | str, int | float | str, int | float | str]


class Spool:
    """Takes rows in any order and gives them in that of their keys.

    They lie in a file in the folder for temporary files, private and without a name, which is gone
    when the spool is closed, however the process ends.
    """

    def __enter__(self) -> Self:
        # An empty name: SQLite deletes the file as soon as it has opened it.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE row (a, b, c, d, value TEXT, PRIMARY KEY (a, b, c, d)) WITHOUT ROWID"
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def put(self, key: Key, value: str) -> None:
        """Take a row. No two have the same key.

        Raises:
            JobError: The folder for temporary files is full.
        """
        try:
            self._database.execute("INSERT INTO row VALUES (?, ?, ?, ?, ?)", (*key, value))
        except sqlite3.OperationalError as error:
            raise JobError(
                f"no room for temporary files ({error}); free some, or name another folder in "
                "TMPDIR"
            ) from None

    def __iter__(self) -> Iterator[str]:
        """Give the rows, smallest key first."""
        for (value,) in self._database.execute("SELECT value FROM row ORDER BY a, b, c, d"):
            yield value

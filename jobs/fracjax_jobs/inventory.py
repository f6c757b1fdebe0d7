"""The list of what an export holds, on disk, so that its length costs no memory."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fracjax.errors import JobError
from fracjax.image import Reason
from fracjax_jobs.walk import Entry, FileSet, Folder, walk

_SCHEMA = """
PRAGMA journal_mode = OFF;  -- should the job end, the list is void anyway
PRAGMA cache_size = -16384;
CREATE TABLE folders (id INTEGER PRIMARY KEY, name BLOB NOT NULL);
CREATE TABLE entries (
    key BLOB, member TEXT, path BLOB, name BLOB, size INTEGER, mtime_ns TEXT, signature TEXT,
    obstacle TEXT, detail TEXT, file_set BLOB,
    PRIMARY KEY (key, member)
) WITHOUT ROWID;
CREATE TABLE file_sets (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class Inventory:
    """What one walk of an export found. Gives its entries in a stable order, any number of times.

    The order is depth first by the bytes of the names, and members by name within their archive.
    The list lies in a database in the folder for temporary files, which has no name there and
    goes away with this process: the names in it are identifiers.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()  # the export may itself be named through a link
        self._length = 0
        self._given = 0  # folders that were looked into

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("", isolation_level=None)
        with _room():
            self._database.executescript(_SCHEMA)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def scan(self, report: Callable[[int], None] = lambda found: None) -> None:
        """Walk the export.

        Args:
            report: Called with the number of entries found, after each.

        Raises:
            JobError: There is no room for the list.
        """
        self._run("BEGIN")
        self._run("INSERT INTO folders (name) VALUES (?)", b"")
        with closing(walk(self._root, self._next_folder)) as everything:
            for found in everything:
                match found:
                    case Folder(name):
                        self._run("INSERT INTO folders (name) VALUES (?)", _encode(name))
                    case FileSet(name):
                        self._run("INSERT OR IGNORE INTO file_sets VALUES (?)", _key(name))
                    case Entry():
                        self._add(found)
                        self._length += 1
                        report(self._length)
        self._mark_file_sets()
        self._run("COMMIT")
        self._length = self._run("SELECT count(*) FROM entries").fetchone()[0]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        rows = self._run(
            "SELECT path, member, name, size, mtime_ns, signature, obstacle, detail, file_set"
            " FROM entries ORDER BY key, member"
        )
        for path, member, name, size, mtime_ns, signature, obstacle, detail, file_set in rows:
            yield Entry(
                path=Path(os.fsdecode(path)),
                member=tuple(map(int, member.split())),
                name=_decode(name),
                size=size,
                mtime_ns=int(mtime_ns),
                signature=signature,
                obstacle=Reason(obstacle) if obstacle else None,
                detail=detail,
                file_set=None if file_set is None else _decode(file_set),
            )

    @property
    def digest(self) -> str:
        """SHA-256 of all sizes, in order, in hexadecimal. It tells nothing of the names."""
        digest = hashlib.sha256()
        for (size,) in self._run("SELECT size FROM entries ORDER BY key, member"):
            digest.update(b"%d\0" % size)
        return digest.hexdigest()

    def _next_folder(self) -> str | None:
        """Give a folder that was not given yet; ``None`` where no more is found as yet."""
        query = "SELECT name FROM folders WHERE id = ?"
        row = self._run(query, self._given + 1).fetchone()
        if row is None:
            return None
        self._given += 1
        return _decode(row[0])

    def _add(self, entry: Entry) -> None:
        # A folder that changes while it is listed may give a name twice.
        self._run(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            _key(entry.name),
            " ".join(map(str, entry.member)),
            os.fsencode(entry.path),
            _encode(entry.name),
            entry.size,
            str(entry.mtime_ns),  # some file systems know times beyond 64 bits
            entry.signature,
            entry.obstacle,
            entry.detail,
        )

    def _mark_file_sets(self) -> None:
        # The outermost first, so that the innermost stands in the end.
        for (key,) in self._run("SELECT key FROM file_sets ORDER BY key").fetchall():
            below = (key + b"\0", key + b"\1") if key else (b"", b"\xff")
            name = key.replace(b"\0", b"/")
            self._run("UPDATE entries SET file_set = ? WHERE key >= ? AND key < ?", name, *below)

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        with _room():
            return self._database.execute(statement, values)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise JobError(
            f"the list of files cannot be kept in the folder for temporary files ({error}); "
            "set TMPDIR to a folder with more room"
        ) from None


def _key(name: str) -> bytes:
    """Make names sort as their paths do, part by part, by bytes."""
    return _encode(name).replace(b"/", b"\0")  # which no name holds


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogatepass")

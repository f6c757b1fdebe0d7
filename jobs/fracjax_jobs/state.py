"""What a run has done so far, on disk beside its worklist: the same command goes on from here.

One SQLite file holds, for each file of the export, a digest of its path, what tells whether it has
changed, and its accounts. It knows no path, name or patient ID, but study UIDs and accession
numbers. The tables are a function of it, so whatever happened on the way, they come out the same.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from pydantic import TypeAdapter, ValidationError

from fracjax.errors import JobError, UsageError
from fracjax.image import Reason
from fracjax_jobs.account import Account, Record
from fracjax_jobs.walk import Entry

APPLICATION_ID = 0x66726A78
"""Tells this program's state from any other SQLite file ("frjx")."""

VERSION = 1

_SCHEMA = """
CREATE TABLE run (claim TEXT NOT NULL, salt BLOB NOT NULL, key_prefix TEXT NOT NULL,
                  reference TEXT NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE given (seconds_per_file REAL NOT NULL);
CREATE TABLE file (
    number INTEGER PRIMARY KEY,   -- what its key is made of
    locator BLOB NOT NULL UNIQUE, -- salted digest of its path
    sibling BLOB NOT NULL,        -- salted digest of its path without the suffix
    signature TEXT NOT NULL,      -- changes when the content does
    written INTEGER NOT NULL,     -- seconds since 1970, UTC
    position INTEGER              -- in the order of the latest walk; NULL where it was not met
);
CREATE TABLE image (
    number INTEGER NOT NULL REFERENCES file ON DELETE CASCADE,
    frame INTEGER NOT NULL,       -- 0 where the account is of the whole file
    reason TEXT,                  -- NULL where it was scored
    study TEXT,                   -- which images belong together; NULL for what is of no study
    sop_instance_uid TEXT,
    thumbnail BLOB,               -- this and the next: NULL where no picture could be read
    digest BLOB,
    account TEXT NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (number, frame)
) WITHOUT ROWID;
CREATE INDEX file_by_position ON file (position);
CREATE INDEX file_by_sibling ON file (sibling);
CREATE INDEX image_by_uid ON image (sop_instance_uid)
"""

_ACCOUNT = TypeAdapter(Account)

_RETRIED = (Reason.UNREADABLE,)
"""What may have been mended without a trace in the file, and costs nothing to try again."""

_SUFFIXES = frozenset({"dcm", "dicom", "jpg", "jpeg", "png", "tif", "tiff"})

_LONGEST = 40
"""Characters of a condition that a message shows."""

_LAST_SECOND = 4102444800
"""The year 2100. File systems know times that a calendar does not."""

_NO_WRITING = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""What befalls a sound file. Any other error, among our own statements, is damage."""


@dataclass(frozen=True, slots=True)
class Task:
    """A file of the export that has no account yet."""

    number: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Image:
    """What the state holds of a file, or of one frame of it.

    Attributes:
        number: Of its file.
        position: Of its file, in the order of the walk.
        written: When its file was, in seconds since 1970, UTC.
        record: Its account.
    """

    number: int
    position: int
    written: int
    record: Record


class State:
    """The state of a run. One process at a time may have it open.

    Every method raises ``UsageError`` where the file cannot be read or written, as on a full disk,
    and ``JobError`` where it is damaged.

    Attributes:
        path: Where it lies.
        key_prefix: Beginning of all file keys; fixed by the first run.
        reference: When the first run began: local time with its offset, ISO 8601.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key_prefix = ""
        self.reference = ""
        self._salt = b""
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def __enter__(self) -> Self:
        with self._using():
            # Made by us, for this user alone, before SQLite opens it.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
            try:
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA foreign_keys = ON")
                self._database.execute("PRAGMA temp_store = FILE")
                self._database.execute("BEGIN EXCLUSIVE")
                self._check_kind()
                self._database.execute("COMMIT")
            except BaseException:
                self._database.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for cursor in list(self._cursors):  # one left open would keep the lock
            cursor.close()
        with suppress(sqlite3.Error):  # what was not committed is done again
            self._database.rollback()
        self._database.close()

    def begin(
        self, claim: Mapping[str, Any], *, key_prefix: str, reference: str, seconds_per_file: float
    ) -> None:
        """Begin a run, or go on with the one that is there.

        Args:
            claim: All that a score depends on, and the export.
            key_prefix: Beginning of the file keys, should this be the first run.
            reference: Time of this run, should it be the first.
            seconds_per_file: What timed out with less is tried again.

        Raises:
            UsageError: What is there was made under another claim.
        """
        wanted = json.loads(json.dumps(claim))
        with self._using():
            first = self._database.execute("SELECT * FROM run").fetchone()
            if first is None:
                row = (json.dumps(wanted), os.urandom(16), key_prefix, reference)
                first = (*row, _checksum(row))
                self._database.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?)", first)
            *row, checksum = first
            if _checksum(row) != checksum:
                raise self._damaged()
            made_under, self._salt, self.key_prefix, self.reference = row
            found = json.loads(made_under)
            if found != wanted:
                raise UsageError(
                    f"{self.path} holds scores of {_difference(found, wanted)}; give another "
                    "--out, or --restart to score everything again"
                )
            self._try_again(seconds_per_file)

    def register(self, entries: Iterable[Entry]) -> None:
        """Take up the files of a walk, in its order, and let go of those that are no more.

        A file that has changed loses its accounts.
        """
        with self._using():
            self._database.execute("BEGIN")
            self._database.execute("UPDATE file SET position = NULL")
            for position, entry in enumerate(entries, start=1):
                # An archive may hold several members of one name.
                locator = self._digest(f"{entry.name}\0{entry.member}")
                self._database.execute(
                    "DELETE FROM file WHERE locator = ? AND signature <> ?",
                    (locator, entry.signature),
                )
                self._database.execute(
                    """INSERT INTO file (locator, sibling, signature, written, position)
                       VALUES (?, ?, ?, ?, ?)
                       ON CONFLICT (locator) DO UPDATE SET position = excluded.position""",
                    (
                        locator,
                        self._digest(_without_suffix(entry.name)),
                        entry.signature,
                        min(max(0, entry.mtime_ns // 10**9), _LAST_SECOND),
                        position,
                    ),
                )
            self._database.execute("DELETE FROM file WHERE position IS NULL")
            self._database.execute("COMMIT")

    def tasks(self, entries: Iterable[Entry]) -> Iterator[Task]:
        """Give the files that have no account yet, in the order of the registered walk."""
        numbers = self._rows(
            """SELECT number, EXISTS (SELECT 1 FROM image WHERE image.number = file.number)
               FROM file WHERE position IS NOT NULL ORDER BY position"""
        )
        for entry, (number, done) in zip(entries, numbers, strict=True):
            if not done:
                yield Task(number, entry)

    def done(self) -> int:
        """Count the files that have their accounts."""
        return int(next(self._rows("SELECT count(DISTINCT number) FROM image"))[0])

    def record(self, number: int, records: Sequence[Record]) -> None:
        """Enter the accounts of one file: one for each frame, or one for all of it."""
        rows = []
        for record in records:
            account = record.account
            uid = account.header.sop_instance_uid if account.header else None
            text = _ACCOUNT.dump_json(account, exclude_defaults=True).decode()
            reason = None if account.reason is None else account.reason.value
            picture = (record.thumbnail, record.digest)
            row = (number, account.frame or 0, reason, record.study, uid, *picture, text)
            rows.append((*row, _checksum(row)))
        with self._using():
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def commit(self) -> None:
        """Make all that was recorded last, whatever happens next."""
        with self._using():
            self._database.commit()

    def accounts(self) -> int:
        """Count the accounts."""
        return int(next(self._rows("SELECT count(*) FROM image"))[0])

    def file_key(self, number: int) -> str:
        """Give the key that stands for a file where its path must not."""
        return f"{self.key_prefix}-{number:07d}"

    def images(self, *, of_study: bool) -> Iterator[Image]:
        """Give the accounts that are of a study, study by study, or those of none.

        Those of one study come in the order of the walk.
        """
        return self._images("study IS NOT NULL" if of_study else "study IS NULL")

    def siblings(self, number: int) -> Iterator[Record]:
        """Give the records of DICOM images that lie beside a file and are named like it."""
        beside = self._rows(
            """SELECT file.number FROM file AS mine JOIN file USING (sibling)
               WHERE mine.number = ? AND file.number <> mine.number""",
            number,
        )
        for (other,) in beside:
            for image in self._images("number = ?", other):
                account = image.record.account
                if account.header is not None and image.record.thumbnail is not None:
                    yield image.record

    def studies_of(self, sop_instance_uid: str) -> int:
        """Count the studies that have a readable image of this SOP instance UID."""
        (count,) = next(
            self._rows(
                """SELECT count(DISTINCT study) FROM image
                   WHERE sop_instance_uid = ? AND thumbnail IS NOT NULL""",
                sop_instance_uid,
            )
        )
        return int(count)

    def folder_of(self, name: str) -> str:
        """Name the folder of a path in a way that does not tell it."""
        return self._digest(name.rpartition("/")[0]).hex()

    def _try_again(self, seconds_per_file: float) -> None:
        """Let go of the accounts of what may have been mended since."""
        (before,) = self._database.execute("SELECT max(seconds_per_file) FROM given").fetchone()
        retried = list(_RETRIED)
        if before is None or seconds_per_file > before:
            retried.append(Reason.DECODER_TIMEOUT)
            self._database.execute("INSERT INTO given VALUES (?)", (seconds_per_file,))
        for reason in retried:
            self._database.execute("DELETE FROM image WHERE reason = ?", (reason.value,))

    def _digest(self, name: str) -> bytes:
        return hashlib.blake2b(
            name.encode(errors="surrogatepass"), key=self._salt, digest_size=16
        ).digest()

    def _check_kind(self) -> None:
        (found,) = self._database.execute("PRAGMA application_id").fetchone()
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0 and found == 0:
            # All or nothing: a run killed here leaves a file that begins anew.
            for statement in _SCHEMA.split(";\n"):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            return
        if found != APPLICATION_ID:
            raise UsageError(f"{self.path} is no state of fracjax; give another --out")
        if version != VERSION:
            raise UsageError(
                f"{self.path} is a state of version {version}, and this release reads version "
                f"{VERSION}; give another --out, or --restart to score everything again"
            )
        if self._database.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise self._damaged()

    def _images(self, condition: str, *values: Any) -> Iterator[Image]:
        rows = self._rows(
            f"""SELECT number, frame, reason, study, sop_instance_uid, thumbnail, digest,
                       account, checksum, position, written
                FROM image JOIN file USING (number)
                WHERE {condition} ORDER BY study, position, frame""",  # noqa: S608
            *values,
        )
        for *row, checksum, position, written in rows:
            if _checksum(row) != checksum:
                raise self._damaged()
            try:
                account = _ACCOUNT.validate_json(row[7])
            except ValidationError:
                raise self._damaged() from None
            yield Image(row[0], position, written, Record(account, row[3], row[5], row[6]))

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._using():
            cursor = self._database.execute(query, values)
        self._cursors.add(cursor)
        while True:
            with self._using():
                row = cursor.fetchone()
            if row is None:
                return
            yield row

    def _damaged(self) -> JobError:
        return JobError(
            f"{self.path} is damaged, as by a failing disk; give --restart to score everything "
            "again, or put back a copy of it"
        )

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what is said beyond it
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise UsageError(
                    f"{self.path} is in use by another run; wait for it, or give another --out"
                ) from None
            if code in _NO_WRITING:
                raise UsageError(
                    f"{self.path} cannot be written: {error}; once that is mended, the same "
                    "command goes on"
                ) from None
            raise self._damaged() from None
        except UnicodeDecodeError:  # of a damaged name or text
            raise self._damaged() from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be opened: {error.strerror or error}; give another --out"
            ) from None


def set_aside(path: Path) -> None:
    """Put a state out of the way, so that the next run begins anew.

    Raises:
        OSError: It cannot be renamed.
    """
    if path.exists():
        path.replace(path.with_name(f"{path.name}.old"))
        # A journal left behind would be rolled back into the new state.
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)


def _checksum(row: Iterable[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for value in row:
        digest.update(repr(value).encode() + b"\0")
    return digest.digest()


def _without_suffix(name: str) -> str:
    """Strip what a viewer or converter puts behind the name of an image."""
    while (parts := name.rpartition("."))[2].lower() in _SUFFIXES and parts[0]:
        name = parts[0]
    return name


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in a few words where two claims differ."""
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if names == ["export"]:
        return "another export"
    return (
        "other conditions ("
        + ", ".join(
            f"{name}: {_short(found.get(name))}, now {_short(wanted.get(name))}" for name in names
        )
        + ")"
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

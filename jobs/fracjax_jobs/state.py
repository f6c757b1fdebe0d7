"""What a run has done so far, on disk beside its worklist: the same command goes on from here.

One SQLite file holds, for each file of the export, a digest of its path, what tells whether it has
changed, and its accounts. It knows no path, name or patient ID, but study UIDs and accession
numbers, and digests by which a guess at a path or an ID could be tried: it stays inside. The tables
are a function of it, so whatever happened on the way, they come out the same.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from pydantic import TypeAdapter, ValidationError

from fracjax.errors import JobError, UsageError
from fracjax.image import Header, Reason
from fracjax_jobs.account import Account, Record
from fracjax_jobs.claims import difference
from fracjax_jobs.tables import PRIVATE
from fracjax_jobs.walk import Entry

APPLICATION_ID = 0x66726A78
"""Tells this program's state from any other SQLite file ("frjx")."""

VERSION = 3

_SCHEMA = """
CREATE TABLE run (claim TEXT NOT NULL, salt BLOB NOT NULL, key_prefix TEXT NOT NULL,
                  reference TEXT NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE kept (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE file (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- what its key is made of: never another file's
    locator BLOB NOT NULL UNIQUE, -- salted digest of its path
    sibling BLOB NOT NULL,        -- salted digest of its path without the suffix
    file_set BLOB,                -- salted digest of its medium's path; NULL where it is on none
    signature TEXT NOT NULL,      -- changes when the content does
    written INTEGER NOT NULL,     -- seconds since 1970, UTC
    frames INTEGER,               -- that its accounts speak for; NULL where it has none
    position INTEGER              -- in the order of the latest walk; NULL where it was not met
);
CREATE TABLE image (
    number INTEGER NOT NULL REFERENCES file ON DELETE CASCADE,
    frame INTEGER NOT NULL,       -- 0 where the account is of the whole file
    reason TEXT,                  -- NULL where it was scored
    study TEXT,                   -- which images belong together; NULL for what is of no study
    sop_instance_uid TEXT,
    patient INTEGER,              -- the header's tag of the patient
    is_dicom INTEGER NOT NULL,    -- whether it is a DICOM object with pixels
    thumbnail BLOB,               -- this and the next: NULL where no picture could be read
    digest BLOB,
    account TEXT NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (number, frame)
) WITHOUT ROWID;
CREATE INDEX file_by_position ON file (position);
CREATE INDEX file_by_sibling ON file (sibling);
CREATE INDEX file_by_file_set ON file (file_set);
CREATE INDEX image_by_uid ON image (sop_instance_uid)
"""

_TEMPORARY = """
CREATE TEMP TABLE preview (number INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TEMP TABLE reused (uid TEXT PRIMARY KEY) WITHOUT ROWID
"""
"""What is found out from the accounts of all files, each time the tables are written."""

_ACCOUNT = TypeAdapter(Account)

_RETRIED = (Reason.UNREADABLE,)
"""What may have been mended without a trace in the file, and costs nothing to try again."""

_RETRIED_WITH_MORE = {
    "seconds_per_file": (Reason.DECODER_TIMEOUT,),
    "bytes_per_worker": (Reason.TOO_LARGE, Reason.DECODER_CRASHED),
}
"""What is tried again where a file may cost more than before."""

RESTARTING = "restarting"
"""Kept from the beginning of a run that takes the place of another, to its end."""

HELD_BY_ANOTHER = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Codes of SQLite."""

_SUFFIXES = frozenset({"dcm", "dicom", "jpg", "jpeg", "png", "tif", "tiff"})

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


class Place(StrEnum):
    """Where a plain picture may lie beside the DICOM image that it shows."""

    SIBLING = "sibling"
    """In the same folder, with the same name but for the suffix."""

    FILE_SET = "file_set"
    """On the same medium."""


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
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, PRIVATE)
            os.fchmod(descriptor, PRIVATE)  # a copy that was put back may have another
            os.close(descriptor)
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
            try:
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA foreign_keys = ON")
                self._database.execute("PRAGMA temp_store = FILE")
                self._database.execute("BEGIN EXCLUSIVE")
                self._check_kind()
                self._database.execute("COMMIT")
                for statement in _TEMPORARY.split(";\n"):
                    self._database.execute(statement)
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
        self,
        claim: Mapping[str, Any],
        *,
        key_prefix: str,
        reference: str,
        given: Mapping[str, float],
        restart: bool = False,
    ) -> None:
        """Begin a run, or go on with the one that is there.

        Args:
            claim: All that a score depends on, and the export.
            key_prefix: Beginning of the file keys, should this be the first run.
            reference: Time of this run, should it be the first.
            given: What a file may cost, as ``seconds_per_file`` and ``bytes_per_worker``. What
                failed with less is tried again.
            restart: Whether it takes the place of a run that was set aside.

        Raises:
            UsageError: What is there was made under another claim.
        """
        wanted = json.loads(json.dumps(claim))
        with self._using():
            self._database.execute("BEGIN")
            first = self._database.execute("SELECT * FROM run").fetchone()
            if first is None:
                if restart:
                    self._keep(RESTARTING, 1)
                row = (json.dumps(wanted), os.urandom(16), key_prefix, reference)
                first = (*row, checksum(row))
                self._database.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?)", first)
            *row, kept = first
            if checksum(row) != kept:
                raise self._damaged()
            made_under, self._salt, self.key_prefix, self.reference = row
            found = json.loads(made_under)
            if found != wanted:
                raise UsageError(
                    f"{self.path} holds scores of {difference(found, wanted)}; give another "
                    "--out, or --restart to score everything again"
                )
            self._try_again(given)
            self._database.execute("COMMIT")

    def finish(self) -> None:
        """Note that the tables of the run are written."""
        with self._using():
            self._database.execute("DELETE FROM kept WHERE name = ?", (RESTARTING,))

    def register(self, entries: Iterable[Entry]) -> None:
        """Take up the files of a walk, in its order, and let go of those that are no more.

        A file that has changed loses its accounts. Where something could not be looked into, what
        was not met may only be out of sight, and keeps them.
        """
        is_whole = True
        with self._using():
            self._database.execute("BEGIN")
            self._database.execute("UPDATE file SET position = NULL")
            for position, entry in enumerate(entries, start=1):
                is_whole &= entry.obstacle != Reason.UNREADABLE
                # An archive may hold several members of one name.
                locator = self._digest(f"{entry.name}\0{entry.member}")
                self._database.execute(
                    "DELETE FROM file WHERE locator = ? AND signature <> ?",
                    (locator, entry.signature),
                )
                place = (
                    self._digest(_without_suffix(entry.name)),
                    None if entry.file_set is None else self._digest(entry.file_set),
                    position,
                )
                known = self._database.execute(
                    "UPDATE file SET sibling = ?, file_set = ?, position = ? WHERE locator = ?",
                    (*place, locator),
                )
                if known.rowcount == 0:
                    written = min(max(0, entry.mtime_ns // 10**9), _LAST_SECOND)
                    self._database.execute(
                        """INSERT INTO file (sibling, file_set, position, locator, signature,
                                             written) VALUES (?, ?, ?, ?, ?, ?)""",
                        (*place, locator, entry.signature, written),
                    )
            if is_whole:
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
        return self._count(
            "SELECT count(DISTINCT number) FROM image JOIN file USING (number)"
            " WHERE position IS NOT NULL"
        )

    def record(self, number: int, records: Sequence[Record]) -> None:
        """Enter the accounts of one file: one for each frame, or one for all of it."""
        rows = []
        for record in records:
            account = record.account
            header = account.header or Header()
            uid, patient = header.sop_instance_uid, header.patient_tag
            text = _ACCOUNT.dump_json(account, exclude_defaults=True).decode()
            reason = None if account.reason is None else account.reason.value
            picture = (record.thumbnail, record.digest)
            is_dicom = int(header.has_pixels)
            facts = (reason, record.study, uid, patient, is_dicom)
            row = (number, account.frame or 0, *facts, *picture, text)
            rows.append((*row, checksum(row)))
        with self._using():
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            places = ", ".join("?" * len(rows[0]))
            self._database.executemany(f"INSERT INTO image VALUES ({places})", rows)  # noqa: S608
            frames = sum(record.account.frames for record in records)
            self._database.execute("UPDATE file SET frames = ? WHERE number = ?", (frames, number))

    def commit(self) -> None:
        """Make all that was recorded last, whatever happens next."""
        with self._using():
            self._database.commit()

    def frames(self) -> int:
        """Count the files, and of several frames each: as they were recorded, file by file."""
        return self._count("SELECT coalesce(sum(frames), 0) FROM file WHERE position IS NOT NULL")

    def file_key(self, number: int) -> str:
        """Give the key that stands for a file where its path must not."""
        return f"{self.key_prefix}-{number:07d}"

    def images(self, *, of_study: bool) -> Iterator[Image]:
        """Give the accounts that are of a study, study by study, or those of none.

        Those of one study come in the order of the walk.
        """
        return self._images("study IS NOT NULL" if of_study else "study IS NULL")

    def find_reused_uids(self) -> None:
        """Find the SOP instance UIDs that images of several studies or patients bear."""
        with self._using():
            self._database.execute("DELETE FROM temp.reused")
            self._database.execute(
                """INSERT INTO temp.reused SELECT sop_instance_uid
                   FROM image JOIN file USING (number)
                   WHERE sop_instance_uid IS NOT NULL AND thumbnail IS NOT NULL
                       AND position IS NOT NULL
                   GROUP BY sop_instance_uid
                   HAVING count(DISTINCT study) > 1 OR count(DISTINCT patient) > 1"""
            )

    def is_reused(self, sop_instance_uid: str) -> bool:
        """Tell whether :meth:`find_reused_uids` has found a UID."""
        found = self._rows("SELECT 1 FROM temp.reused WHERE uid = ?", sop_instance_uid)
        return next(found, None) is not None

    def places(self, kind: Place) -> Iterator[bytes]:
        """Give the places of a kind that hold plain pictures and DICOM images."""
        for (value,) in self._rows(
            f"""SELECT {kind} FROM image JOIN file USING (number)
                WHERE position IS NOT NULL AND {kind} IS NOT NULL GROUP BY {kind}
                HAVING max(is_dicom) AND max(NOT is_dicom AND thumbnail IS NOT NULL)"""  # noqa: S608
        ):
            yield bytes(value)

    def plain_pictures(self, kind: Place, value: bytes) -> Iterator[tuple[int, bytes]]:
        """Give file and thumbnail of each plain picture in a place that is no known preview."""
        yield from self._rows(
            f"""SELECT number, thumbnail FROM image JOIN file USING (number)
                WHERE {kind} = ? AND NOT is_dicom AND thumbnail IS NOT NULL
                    AND position IS NOT NULL AND number NOT IN (SELECT number FROM temp.preview)
                ORDER BY number""",  # noqa: S608
            value,
        )

    def dicom_thumbnails(self, kind: Place, value: bytes) -> Iterator[bytes]:
        """Give the thumbnail of each DICOM image in a place whose picture was read."""
        for (thumbnail,) in self._rows(
            f"""SELECT thumbnail FROM image JOIN file USING (number)
                WHERE {kind} = ? AND is_dicom AND thumbnail IS NOT NULL
                    AND position IS NOT NULL""",  # noqa: S608
            value,
        ):
            yield bytes(thumbnail)

    def unseen(self, kind: Place, value: bytes) -> int:
        """Count the DICOM images in a place whose pictures were not read, by intent."""
        return self._without_picture(
            kind, value, "is_dicom", [reason for reason in Reason if _is_intent(reason)]
        )

    def unread(self, kind: Place, value: bytes) -> int:
        """Count what may be an image in a place, and failed to be read."""
        return self._without_picture(
            kind,
            value,
            "study IS NOT NULL",
            [reason for reason in Reason if not _is_intent(reason)],
        )

    def _without_picture(
        self, kind: Place, value: bytes, condition: str, reasons: Sequence[Reason]
    ) -> int:
        return self._count(
            f"""SELECT count(*) FROM image JOIN file USING (number)
                WHERE {kind} = ? AND {condition} AND thumbnail IS NULL AND position IS NOT NULL
                    AND reason IN ({", ".join("?" * len(reasons))})""",  # noqa: S608
            value,
            *(reason.value for reason in reasons),
        )

    def mark_previews(self, numbers: Iterable[int], reason: Reason) -> None:
        """Note that plain pictures are previews."""
        with self._using():
            self._database.executemany(
                "INSERT INTO temp.preview VALUES (?, ?)", ((n, reason.value) for n in numbers)
            )

    def forget_previews(self) -> None:
        """Take back all that :meth:`mark_previews` has noted."""
        with self._using():
            self._database.execute("DELETE FROM temp.preview")

    def preview(self, number: int) -> Reason | None:
        """Give what :meth:`mark_previews` has noted of a file."""
        found = next(self._rows("SELECT reason FROM temp.preview WHERE number = ?", number), None)
        return None if found is None else Reason(found[0])

    def folder_of(self, name: str) -> str:
        """Name the folder of a path in a way that does not tell it."""
        return self._digest(name.rpartition("/")[0]).hex()

    def _try_again(self, given: Mapping[str, float]) -> None:
        """Let go of the accounts of what may have been mended since."""
        retried = list(_RETRIED)
        for name, value in given.items():
            row = self._database.execute("SELECT value FROM kept WHERE name = ?", (name,))
            before = row.fetchone()
            if before is None or value > before[0]:
                retried += _RETRIED_WITH_MORE[name]
                self._keep(name, value)
        for reason in retried:  # with all frames of such a file
            self._database.execute(
                """DELETE FROM image
                   WHERE number IN (SELECT number FROM image WHERE reason = ?)""",
                (reason.value,),
            )

    def _keep(self, name: str, value: float) -> None:
        self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))

    def _count(self, query: str, *values: Any) -> int:
        return int(next(self._rows(query, *values))[0])

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

    def _images(self, condition: str) -> Iterator[Image]:
        rows = self._rows(
            f"""SELECT position, written, number, study, thumbnail, digest, account, image.*
                FROM image JOIN file USING (number)
                WHERE position IS NOT NULL AND {condition} ORDER BY study, position, frame"""  # noqa: S608
        )
        for position, written, number, study, thumbnail, digest, text, *row, kept in rows:
            if checksum(row) != kept or not 0 <= written <= _LAST_SECOND:
                raise self._damaged()
            try:
                account = _ACCOUNT.validate_json(text)
            except ValidationError:
                raise self._damaged() from None
            yield Image(number, position, written, Record(account, study, thumbnail, digest))

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
            if code in HELD_BY_ANOTHER:
                raise in_use(self.path) from None
            if code in _NO_WRITING:
                raise UsageError(
                    f"{self.path} cannot be written, or the folder for temporary files: {error}; "
                    "once that is mended, the same command goes on"
                ) from None
            raise self._damaged() from None
        except UnicodeDecodeError:  # of a damaged name or text
            raise self._damaged() from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be opened: {error.strerror or error}; give another --out"
            ) from None


def _is_intent(reason: Reason) -> bool:
    """Whether an image is set aside unread for what it is, and not for what is wrong with it."""
    return not reason.is_failure or reason in (Reason.MULTI_FRAME, Reason.NO_WINDOW)


def in_use(path: Path) -> UsageError:
    """Say that another run holds a state."""
    return UsageError(f"{path} is in use by another run; wait for it, or give another --out")


def checksum(row: Iterable[Any]) -> bytes:
    """Digest the values of a row, which stands beside them."""
    digest = hashlib.blake2b(digest_size=8)
    for value in row:
        digest.update(repr(value).encode() + b"\0")
    return digest.digest()


def _without_suffix(name: str) -> str:
    """Strip what a viewer or converter puts behind the name of an image, and its case."""
    name = name.casefold()
    while (parts := name.rpartition("."))[2] in _SUFFIXES and parts[0]:
        name = parts[0]
    return name

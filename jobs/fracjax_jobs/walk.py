"""What lies in an export: files, members of ZIP archives, and what stands in a file's place.

Names and contents may come from anywhere. Nothing is followed out of the export, nothing is
extracted to disk, nothing that could block is opened, and memory stays bounded.
"""

import errno
import io
import os
import stat
import sys
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias

from fracjax import interrupt
from fracjax.image import Reason, looks_like_dicom

LOOKS = 16
"""Files that are looked at together, where a file server takes long to open one."""

SLOW = 0.002
"""Seconds that a look takes from which on that is worth its threads; on a local disk it is not."""

SECONDS_BETWEEN_CHECKS = 0.5
"""After which a signal is noticed while a look is waited for."""

_LOOKED_AT_BY_ONE = 16  # files, one after another

MAX_MEMBERS = 100_000
"""Members of one archive. More are refused, with the archive."""

MAX_TABLE_BYTES = 256 * MAX_MEMBERS
"""Size of an archive's table of contents. Parsed, it takes some ten times as much memory."""

MAX_ARCHIVE_BYTES = 2**40
"""What the members of one archive may hold together: 70,000 images of 15 MB."""

MAX_INNER_BYTES = 2**29
"""Archives within an archive are held in memory, one at a time. All of one archive's together may
inflate to this; what goes beyond is refused."""

MAX_RATIO = 200
"""To which deflated data may grow, beyond ``SMALL_MEMBER_BYTES``. A radiograph with wide black
borders deflates to a twentieth; deflate itself ends at 1:1032."""

SMALL_MEMBER_BYTES = 2**26
"""A smaller member may deflate as well as it likes: to inflate it costs little."""

FURNITURE = frozenset({"[Content_Types].xml", "META-INF/MANIFEST.MF", "mimetype"})
"""Members that mark a ZIP file as an office document, a Java program or an e-book."""

WEB_PREVIEWS = "IHE_PDI"
"""Folder that a medium keeps pages and previews for a browser in (IHE RAD TF-2, 4.47)."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PROGRAM = b"MZ"
_SPLIT_ZIP = b"PK\x07\x08"
_PART_OF_SPLIT = "a part of a split ZIP archive; join the parts"
_HEAD_BYTES = 132
_INFLATED_HERE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods whose memory is bounded, so that the job's own process may undo them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing found: a file, a member of an archive, or what stands in a file's place.

    Attributes:
        path: The file, or the archive.
        member: Index of the member within the archive, then within an archive in that; empty for
            a file.
        name: Path relative to the export, then the member's name. An identifier: never shown.
        size: Bytes of the file, or of the archive.
        mtime_ns: When the file or archive was last changed, in ns since 1970.
        signature: Short text that changes when the content or its meaning is likely to have.
        obstacle: Why it cannot be read; ``None`` where it can.
        detail: The obstacle, in one line.
        file_set: The folder whose DICOMDIR, or ``WEB_PREVIEWS``, makes a medium of what lies
            below it (PS3.10 8.6); the innermost of several, ``None`` for none.
    """

    path: Path
    member: tuple[int, ...]
    name: str
    size: int = 0
    mtime_ns: int = 0
    signature: str = ""
    obstacle: Reason | None = None
    detail: str = ""
    file_set: str | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is still to be looked into, by its path relative to the export."""

    name: str


@dataclass(frozen=True, slots=True)
class FileSet:
    """A folder, of the export or an archive, that is a medium's; ``""`` is the export."""

    name: str


class ArchiveTooLarge(Exception):
    """An archive's table of contents is larger than ``MAX_TABLE_BYTES``."""


_Found: TypeAlias = Entry | Folder | FileSet


@dataclass(frozen=True, slots=True)
class _Archive:
    """A file that may hold others, which is still to be looked into."""

    path: Path
    name: str


def walk(root: Path, next_folder: Callable[[], str | None]) -> Generator[_Found, None, None]:
    """Look into the folders of an export, at several files at once.

    Args:
        root: The export, without links in its path.
        next_folder: Gives the path of a folder that is to be looked into, relative to the export
            (``""`` is the export itself); or ``None`` where no more is known as yet.

    Yields:
        In no particular order: folders to look into, and an entry for each file and archive
        member, and for each link, pipe, device or folder that cannot be looked into. An archive
        that has members is not an entry itself.
    """
    with _Looks(root) as looks:
        while (folder := next_folder()) is not None or looks.has_more:
            try:
                for name in () if folder is None else _list(root, folder):
                    yield from looks.take(name)
            except OSError as error:
                yield _unreadable(root / (folder or ""), folder or ".", error)
            if folder is None:  # more may be among what is looked at
                yield from looks.settle()


class _Looks:
    """Children of folders that are to be looked at: here, or in threads where that is slow."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[str] = []
        self._is_slow = False
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor(LOOKS, "looking")
        self._under_way: deque[Future[tuple[list[_Found | _Archive], float]]] = deque()

    def __enter__(self) -> "_Looks":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._threads.shutdown(cancel_futures=True)

    @property
    def has_more(self) -> bool:
        """Whether something was taken, and what it is not given."""
        return bool(self._names or self._under_way)

    def take(self, name: str) -> Iterator[_Found]:
        """Take a child, by its path relative to the export; give what some of them are."""
        self._names.append(name)
        if len(self._names) == _LOOKED_AT_BY_ONE:
            yield from self._look()
        if len(self._under_way) > 2 * LOOKS:
            yield from self._wait()

    def settle(self) -> Iterator[_Found]:
        """Look at those that wait, and give what the first ones are."""
        yield from self._look()
        if self._under_way:
            yield from self._wait()

    def _wait(self) -> Iterator[_Found]:
        first = self._under_way.popleft()
        while not wait([first], SECONDS_BETWEEN_CHECKS).done:
            interrupt.check()
        yield from self._given(*first.result())

    def _look(self) -> Iterator[_Found]:
        names, self._names = self._names, []
        if not names:
            return
        if self._is_slow:
            with suppress(RuntimeError):  # no more threads on this machine
                look = self._threads.submit(_look_at_all, self._root, names, self._is_over)
                self._under_way.append(look)
                return
        yield from self._given(*_look_at_all(self._root, names, self._is_over))

    def _given(self, found: list[_Found | _Archive], seconds: float) -> Iterator[_Found]:
        self._is_slow = seconds > SLOW
        for each in found:
            if isinstance(each, _Archive):  # one after another: their tables may be large
                yield from _look_into_file(each.path, each.name)
            else:
                yield each


def _list(root: Path, folder: str) -> Iterator[str]:
    """Give the names of a folder's children, relative to the export."""
    with os.scandir(root / folder) as children:
        for child in children:
            yield f"{folder}/{child.name}" if folder else child.name


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file, but no link, pipe or device, should one have taken its place.

    Raises:
        OSError: It cannot be opened.
    """
    # A pipe without a writer would block for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return file


def open_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a ZIP archive whose table of contents is of bearable size.

    Raises:
        ArchiveTooLarge: It is not.
        Exception: What ``zipfile`` raises at a damaged archive.
    """
    guarded = _Guarded(file)  # type: ignore[arg-type]  # a BytesIO does for a raw file
    archive = zipfile.ZipFile(guarded)
    guarded.limit = sys.maxsize
    return archive


class _Guarded(io.BufferedReader):
    """A file that refuses to be read in a piece as large as only ``zipfile`` asks for."""

    limit = MAX_TABLE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ArchiveTooLarge
        return super().read(size)


def _obstacle(path: Path, name: str, reason: Reason, detail: str) -> Entry:
    # What stands here may be another thing at the next walk, with another outcome.
    return Entry(path, (), name, signature=f"{reason}-{detail}", obstacle=reason, detail=detail)


def _unreadable(path: Path, name: str, error: OSError) -> Entry:
    return _obstacle(path, name, Reason.UNREADABLE, error.strerror or "cannot be read")


def _look_at_all(
    root: Path, names: list[str], is_over: threading.Event
) -> tuple[list[_Found | _Archive], float]:
    """Look at some children, one after another, till all is over; tell how long one took, too."""
    begin = time.monotonic()
    found: list[_Found | _Archive] = []
    for name in names:
        if is_over.is_set():
            break
        found += _look_at(root, root / name, name)
    return found, (time.monotonic() - begin) / len(names)


def _look_at(root: Path, path: Path, name: str) -> list[_Found | _Archive]:
    """Look at one child of a folder."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            medium = [FileSet(name.rpartition("/")[0])] if path.name.upper() == WEB_PREVIEWS else []
            return [*medium, Folder(name)]
        if stat.S_ISLNK(mode):
            return [_obstacle(path, name, *_where_to(root, path))]
        if stat.S_ISREG(mode):
            return _look_at_file(path, name)
        return [_obstacle(path, name, Reason.NOT_A_FILE, "a pipe, socket or device")]
    except OSError as error:
        return [_unreadable(path, name, error)]


def _where_to(root: Path, link: Path) -> tuple[Reason, str]:
    """Tell whether what a link leads to is found without it."""
    try:
        target = Path(os.path.realpath(link, strict=True))
        mode = target.lstat().st_mode
    except OSError:
        return Reason.NOT_A_FILE, "a link that leads nowhere"
    if not target.is_relative_to(root):
        return Reason.NOT_A_FILE, "a link that leads out of the export"
    if stat.S_ISREG(mode):
        return Reason.DUPLICATE, "a link to a file that is found by itself"
    if stat.S_ISDIR(mode):
        return Reason.DUPLICATE, "a link to a folder that is found by itself"
    return Reason.NOT_A_FILE, "a link to a pipe, socket or device"


def _look_at_file(path: Path, name: str) -> list[_Found | _Archive]:
    with open_regular(path) as file:
        entry, head = _begin(file, path, name)
    # A preamble may begin like anything (PS3.10 7.1).
    if head.startswith((*_ZIP, _PROGRAM)) and not _has_prefix(head):
        return [_Archive(path, name)]
    if head.startswith(_SPLIT_ZIP) and not _has_prefix(head):
        return [replace(entry, obstacle=Reason.UNSUPPORTED, detail=_PART_OF_SPLIT)]
    return [*_file_set(name, head), entry]


def _look_into_file(path: Path, name: str) -> Iterator[Entry | FileSet]:
    """Look into what may be an archive, or a program with one behind it."""
    try:
        with open_regular(path) as file:
            entry, head = _begin(file, path, name)
            if head.startswith(_ZIP):
                yield from _look_into_archive(file, entry)
            elif _unpacks_images(file):
                detail = "a program that may unpack images; unpack them"
                yield replace(entry, obstacle=Reason.UNSUPPORTED, detail=detail)
            else:
                yield entry
    except OSError as error:
        yield _unreadable(path, name, error)


def _begin(file: IO[bytes], path: Path, name: str) -> tuple[Entry, bytes]:
    """Give a file that was opened as an entry, and its first bytes."""
    status = os.fstat(file.fileno())
    size, mtime_ns = status.st_size, status.st_mtime_ns
    return Entry(path, (), name, size, mtime_ns, f"{size}-{mtime_ns}"), file.read(_HEAD_BYTES)


def _file_set(name: str, head: bytes) -> Iterator[FileSet]:
    """Tell of a file-set where a file is its DICOMDIR (PS3.10 8.6)."""
    folder, _, file_name = name.rpartition("/")
    # Some systems show the names of ISO 9660 as they are on the medium.
    named = file_name.removesuffix(";1").removesuffix(".").upper() == "DICOMDIR"
    if named and (_has_prefix(head) or not head):  # none of a member that is not inflated here
        yield FileSet(folder)


def _has_prefix(head: bytes) -> bool:
    """Whether a file has the DICOM prefix behind its preamble (PS3.10 7.1)."""
    return head[128:132] == b"DICM"


def _unpacks_images(file: IO[bytes]) -> bool:
    """Whether a program has an archive behind it that may hold DICOM files."""
    try:
        if not zipfile.is_zipfile(file):
            return False
        archive = open_archive(file)
        return _may_hold_dicom(archive, archive.infolist())
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - zipfile raises many types on hostile bytes
        return False


def _may_hold_dicom(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> bool:
    """Whether a member begins as DICOM, is an archive itself, or cannot be looked into here."""
    return any(
        _is_encrypted(member)
        or member.compress_type not in _INFLATED_HERE
        or member.filename.lower().endswith(".zip")
        or looks_like_dicom(_read_member(archive, member, _HEAD_BYTES))
        for member in members[:MAX_MEMBERS]
    )


@dataclass(slots=True)
class _Inner:
    """What the archives within one archive may still inflate to, bytes."""

    room: int


def _look_into_archive(
    file: IO[bytes], whole: Entry, inner: _Inner | None = None
) -> Iterator[Entry | FileSet]:
    """Give the members of an archive, or the archive where it is not to be opened."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    is_empty = file.read(4) == _ZIP[1]
    try:
        archive = open_archive(file)
    except OSError:
        raise
    except ArchiveTooLarge:
        detail = f"a ZIP archive with a table of contents of more than {MAX_TABLE_BYTES} bytes"
        yield replace(whole, obstacle=Reason.TOO_LARGE, detail=detail)
        return
    except Exception:  # noqa: BLE001 - zipfile raises many types on hostile bytes
        yield replace(whole, obstacle=Reason.CORRUPT, detail="a damaged ZIP archive")
        return
    members = archive.infolist()
    obstacle = _archive_obstacle(archive, members, size, is_empty=is_empty)
    if obstacle is not None:
        yield replace(whole, obstacle=obstacle[0], detail=obstacle[1])
        return
    inner = inner or _Inner(MAX_INNER_BYTES)
    for index, member in enumerate(members):
        if _is_folder(member):
            continue
        entry = replace(
            whole,
            member=(*whole.member, index),
            # Some writers on Windows separate folders as Windows does.
            name=f"{whole.name}/" + member.filename.replace("\\", "/"),
            signature=f"{whole.signature}-{member.file_size}-{member.CRC:08x}",
        )
        if WEB_PREVIEWS in (parts := entry.name.upper().split("/")[:-1]):
            at = parts.index(WEB_PREVIEWS)
            yield FileSet("/".join(entry.name.split("/")[:at]))
        yield from _look_at_member(archive, member, entry, inner)


def _archive_obstacle(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], size: int, *, is_empty: bool
) -> tuple[Reason, str] | None:
    """Tell why no member of an archive is to be read."""
    # Of an archive that is cut off, zipfile finds the table of an archive within it.
    first = min((member.header_offset for member in members), default=0)
    if first > 0 or not (members or is_empty):
        return Reason.CORRUPT, "a ZIP archive that its table of contents does not cover"
    files = [member for member in members if not _is_folder(member)]
    if not files:
        return Reason.EMPTY, "a ZIP archive without files"
    if all(_is_encrypted(member) for member in files):
        return Reason.UNSUPPORTED, "an encrypted ZIP archive; unpack it with its password"
    if FURNITURE & {member.filename for member in files} and not _may_hold_dicom(archive, files):
        return Reason.NOT_AN_IMAGE, "a document or program in ZIP form"
    if len(members) > MAX_MEMBERS:
        detail = f"a ZIP archive of {len(members)} members; the limit is {MAX_MEMBERS}"
        return Reason.TOO_LARGE, detail
    if sum(member.compress_size for member in files) > size:
        return Reason.CORRUPT, "a ZIP archive whose members overlap"
    if sum(member.file_size for member in files) > MAX_ARCHIVE_BYTES:
        return Reason.TOO_LARGE, f"a ZIP archive of more than {MAX_ARCHIVE_BYTES} bytes inflated"
    return None


def _look_at_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, entry: Entry, inner: _Inner
) -> Iterator[Entry | FileSet]:
    if _is_encrypted(member):
        detail = "an encrypted archive member; unpack the archive with its password"
        yield replace(entry, obstacle=Reason.UNREADABLE, detail=detail)
        return
    head = _read_member(archive, member, _HEAD_BYTES)
    is_archive = head.startswith(_ZIP) and not _has_prefix(head)
    if head.startswith(_SPLIT_ZIP) and not _has_prefix(head):
        yield replace(entry, obstacle=Reason.UNSUPPORTED, detail=_PART_OF_SPLIT)
    elif not is_archive or len(entry.member) > 1:  # one archive within another, no more
        yield from _file_set(entry.name, head)
        yield entry
    elif member.file_size > inner.room or is_bomb(member):
        detail = f"a ZIP archive in an archive, of {member.file_size} bytes; unpack the outer one"
        yield replace(entry, obstacle=Reason.TOO_LARGE, detail=detail)
    else:
        inner.room -= member.file_size
        data = _read_member(archive, member, member.file_size)
        if len(data) < member.file_size:
            detail = "a damaged ZIP archive in an archive"
            yield replace(entry, obstacle=Reason.CORRUPT, detail=detail)
        else:
            yield from _look_into_archive(io.BytesIO(data), entry, inner)


def _is_encrypted(member: zipfile.ZipInfo) -> bool:
    return bool(member.flag_bits & 1)


def is_bomb(member: zipfile.ZipInfo) -> bool:
    """Whether a member says of itself that it inflates as no image does."""
    return member.file_size > max(SMALL_MEMBER_BYTES, MAX_RATIO * member.compress_size)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> bytes:
    """Read the beginning of a member; nothing of a damaged one, of which its reader will tell."""
    if member.compress_type not in _INFLATED_HERE:
        return b""
    try:
        with archive.open(member) as file:
            return file.read(size)
    except Exception:  # noqa: BLE001 - zipfile raises many types on hostile bytes
        return b""


def _is_folder(member: zipfile.ZipInfo) -> bool:
    # By its name alone, a member with bytes in it would be passed over; and it may have no name.
    return member.filename.endswith(("/", "\\")) and member.file_size == 0

"""Finds every file of an export, and every member of its ZIP archives, in a stable order."""

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fracjax.image import Reason

MAX_MEMBERS = 100_000
"""Members of one archive. More are refused, with the archive."""

FURNITURE = frozenset({"[Content_Types].xml", "META-INF/MANIFEST.MF", "mimetype"})
"""Members that mark a ZIP file as an office document, a Java program or an e-book."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing found: a file, a member of an archive, or what stands in a file's place.

    Attributes:
        path: The file, or the archive.
        member: Index of the member within the archive; ``None`` for a file.
        name: Path relative to the export, then the member's name. An identifier: never shown.
        obstacle: Why it cannot be read; ``None`` where it can.
        detail: The obstacle, in one line.
    """

    path: Path
    member: int | None
    name: str
    obstacle: Reason | None = None
    detail: str = ""


def walk(root: Path) -> Iterator[Entry]:
    """Walk a directory depth first, by name, without following links.

    Args:
        root: The export. It may be a link itself.

    Yields:
        An entry for each file and archive member, and one for each folder, link, pipe or device
        that cannot be looked into. An archive that has members is not an entry itself.
    """
    root = root.resolve()
    pending = [root]
    while pending:
        path = pending.pop()
        name = os.fsdecode(os.path.relpath(path, root))
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                with os.scandir(path) as children:
                    pending.extend(sorted((Path(child) for child in children), reverse=True))
            elif not stat.S_ISREG(mode):
                yield Entry(path, None, name, Reason.NOT_A_FILE, "a link, pipe or device")
            elif _is_zip(path):
                yield from _walk_zip(path, name)
            else:
                yield Entry(path, None, name)
        except OSError as error:
            yield Entry(path, None, name, Reason.UNREADABLE, error.strerror or "cannot be read")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _walk_zip(path: Path, name: str) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        yield Entry(path, None, name, Reason.CORRUPT, "a damaged ZIP archive")
        return
    indices = [index for index, member in enumerate(members) if not _is_folder(member)]
    if not indices:
        yield Entry(path, None, name, Reason.EMPTY, "a ZIP archive without files")
        return
    if FURNITURE & {member.filename for member in members}:
        yield Entry(path, None, name, Reason.NOT_AN_IMAGE, "a document or program in ZIP form")
        return
    if len(members) > MAX_MEMBERS:
        detail = f"a ZIP archive of {len(members)} members; the limit is {MAX_MEMBERS}"
        yield Entry(path, None, name, Reason.TOO_LARGE, detail)
        return
    for index in sorted(indices, key=lambda index: members[index].filename):
        yield Entry(path, index, f"{name}/{members[index].filename}")


def _is_folder(member: zipfile.ZipInfo) -> bool:
    # By its name alone, a member with bytes in it would be passed over; and it may have no name.
    return member.filename.endswith("/") and member.file_size == 0

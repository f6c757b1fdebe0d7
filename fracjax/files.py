"""Files and folders that appear under their name whole or not at all, and outlast a power cut."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, in place of any that is there."""
    partial = path.with_name(f".{path.name}.partial")
    write_synced(partial, text.encode())
    partial.replace(path)
    sync_folder(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file of a folder that is to be renamed as a whole, through to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Write the names in a folder through to the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a new folder of files, through to the disk.

    Raises:
        OSError: ``folder`` is a file, or a folder that is not empty.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        for name, data in contents.items():
            write_synced(partial / name, data)
        sync_folder(partial)
        partial.rename(folder)
    except BaseException:  # a signal, too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


CACHED = ".cached"
"""How the folders of a cache are named, so that nothing else in its place is removed."""


def keep_in_cache(cache: Path, key: str, contents: Mapping[str, bytes], most: int) -> None:
    """Keep files in a cache, which may be lost, and forget what was used long ago.

    Where the cache cannot be written to, nothing is kept.

    Args:
        cache: A folder.
        key: Names the files together; what is kept under it already is replaced.
        contents: By name.
        most: Keys that are kept, those used last.
    """
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(suffix=CACHED, prefix=".partial-", dir=cache))
        try:
            for name, data in contents.items():
                (partial / name).write_bytes(data)
            shutil.rmtree(cache / (key + CACHED), ignore_errors=True)
            partial.rename(cache / (key + CACHED))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        kept = sorted(cache.glob("*" + CACHED), key=lambda path: path.stat().st_mtime)
        for old in kept[:-most]:
            shutil.rmtree(old, ignore_errors=True)


def read_cached(cache: Path, key: str, names: Sequence[str]) -> list[bytes] | None:
    """Read what :func:`keep_in_cache` kept, by name; ``None`` if it is not there."""
    folder = cache / (key + CACHED)
    try:
        contents = [(folder / name).read_bytes() for name in names]
    except OSError:
        return None
    with suppress(OSError):  # of a cache that may only be read
        os.utime(folder)
    return contents

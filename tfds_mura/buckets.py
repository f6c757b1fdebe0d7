"""Shuffling of large splits on disk, without TensorFlow.

TFDS writes a split in the order of its keys' digests. What it cannot hold in memory it divides into
buckets on disk, which it opens through TensorFlow: a set of more than 1,000 MiB could then not be
prepared without it, and MURA has more. So
:mod:`tfds_mura.schema`, which all builders import, puts these in their place.
"""

from collections.abc import Iterator
from pathlib import Path

from tensorflow_datasets.core import shuffle

HELD_BYTES = 256 << 20
"""Of a split, what is held in memory before buckets are written."""

_KEY_BYTES, _SIZE_BYTES = 16, 8


class Bucket:
    """Records with keys, in a file that is open only while something is added or read.

    There are 1,000 of them, as many as some systems let a process open at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, key: int, data: bytes) -> None:
        """Add a record."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(key.to_bytes(_KEY_BYTES, "big") + len(data).to_bytes(_SIZE_BYTES, "big"))
            file.write(data)
        self._length += 1

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        """Give the records with their keys, in the order in which they were added."""
        if not self._length:
            return
        with self._path.open("rb") as file:
            for _ in range(self._length):
                key, size = (
                    int.from_bytes(file.read(count), "big") for count in (_KEY_BYTES, _SIZE_BYTES)
                )
                yield key, file.read(size)

    def del_file(self) -> None:
        """Delete the file, where there is one."""
        self._path.unlink(missing_ok=True)


def install() -> None:
    """Make TFDS use these buckets. Any number of calls are one."""
    shuffle._Bucket = Bucket
    shuffle.MAX_MEM_BUFFER_SIZE = HELD_BYTES

"""Labelled radiographs from TFDS, in the order and form that training and evaluation need."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, SupportsIndex, TypedDict

import grain.python as grain
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import ArrayLike, NDArray

from fracjax.configs import Preprocess, Target
from fracjax.errors import DataError
from fracjax.image.raster import decode_gray
from fracjax.image.render import network_input

BUILDERS = {"frac_atlas": "tfds_mura.frac_atlas", "mura": "tfds_mura.mura"}
"""Modules whose import registers a data set with TFDS."""


Change = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
"""A change of an image's pixels (height, width)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image. The fields are those of ``tfds_mura.schema``."""

    encoded: bytes
    """The image file's own bytes."""
    label: int
    target: Target
    body_part: str
    view: str
    study_id: str
    group: str
    source: str
    boxes: NDArray[np.float32]
    hardware: int
    findings: tuple[str, ...]
    truncated: bool

    def pixels(self) -> NDArray[np.uint8]:
        """Decode the image: (height, width) grey levels."""
        pixels, _, _ = decode_gray(self.encoded)
        return pixels.astype(np.uint8)


class Radiographs(Sequence[Example]):
    """The images of some splits of a data set, read from disk one by one as they are asked for."""

    def __init__(self, name: str, version: str, splits: Sequence[str], records: Any) -> None:
        self.name = name
        self.version = version
        self.splits = tuple(splits)
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def facts(self) -> list[Example]:
        """All the images but for their bytes, read in one pass."""
        return [dataclasses.replace(example, encoded=b"") for example in self]

    @cached_property
    def sha256(self) -> str:
        """Digest of which images these are, with their labels and groups, in any order."""
        rows = sorted(f"{fact.source}\t{fact.label}\t{fact.group}" for fact in self.facts)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def __getitem__(self, index: SupportsIndex) -> Example:  # type: ignore[override]  # no slices
        record = self._records[range(len(self))[index]]
        text = {
            key: record[key].decode()
            for key in ("target", "body_part", "view", "study_id", "group", "source")
        }
        return Example(
            encoded=record["image"],
            label=int(record["label"]),
            boxes=np.reshape(record["boxes"], (-1, 4)).astype(np.float32),
            hardware=int(record["hardware"]),
            findings=tuple(finding.decode() for finding in record["findings"]),
            truncated=bool(record["truncated"]),
            **text,
        )


def unchanged(pixels: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
    """Leave an image as it is."""
    return pixels


class Batch(TypedDict):
    """What a step takes."""

    image: ArrayLike
    """uint8 (batch, size, size) grey levels 0..255: the network's input, rounded to 8 bits."""
    label: ArrayLike
    """int32 (batch,), 0 or 1."""


def prepare(name: str, archive_dir: Path, data_dir: Path) -> dict[str, int]:
    """Convert an archive that a person has unpacked into ArrayRecord files.

    Args:
        name: A key of :data:`BUILDERS`.
        archive_dir: The folder that holds ``FracAtlas`` or ``MURA-v1.1``.
        data_dir: Where the converted set goes.

    Returns:
        The number of images in each split.

    Raises:
        DataError: The archive is missing or not in the shape of its release.
    """
    _register(name)
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=archive_dir)
    try:
        with TemporaryDirectory() as downloads:  # stays empty: the archive is here already
            builder.download_and_prepare(download_dir=downloads, download_config=config)
    except DataError:
        for folder in (data_dir / name, data_dir):
            with suppress(OSError):  # what TFDS made for nothing, and only if it is empty
                folder.rmdir()
        raise
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def load(name: str, splits: Sequence[str], data_dir: Path) -> Radiographs:
    """Open splits of a prepared data set. Neither this nor reading imports TensorFlow.

    Raises:
        DataError: The set is not prepared in ``data_dir``, or has no such split.
    """
    _register(name)
    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.info.splits:
        raise DataError(
            f"{data_dir} holds no prepared {name}; run "
            f"'fracjax prepare {name} --archive-dir DIR --data-dir {data_dir}' first"
        )
    for split in splits:
        if split not in builder.info.splits:
            raise DataError(
                f"{name} has no split {split!r}; choose from {', '.join(builder.info.splits)}"
            )
    records = builder.as_data_source(
        "+".join(splits), decoders={"image": tfds.decode.SkipDecoding()}
    )
    return Radiographs(name, str(builder.version), splits, records)


def check_disjoint(train: Radiographs, valid: Radiographs) -> None:
    """Make sure that no group is both learned from and reported on.

    Raises:
        DataError: A group stands on both sides.
    """
    shared = {fact.group for fact in train.facts} & {fact.group for fact in valid.facts}
    if shared:
        raise DataError(
            f"{len(shared)} groups stand in both the training and the validation splits; "
            "choose splits that share none"
        )


def train_batches(
    images: Radiographs, preprocess: Preprocess, *, batch_size: int, epochs: int, seed: int
) -> grain.MapDataset:
    """Order the images anew in each epoch and make batches of them.

    The result is random access: batch ``i`` of a given seed is the same whenever it is asked for,
    so the number of steps done is all that a resumed run needs to know.
    """
    return (
        grain.MapDataset.source(images)
        .seed(seed)
        .shuffle()
        .repeat(epochs)
        .map(lambda example: _train_sample(example, preprocess))
        .batch(batch_size, drop_remainder=True)
    )


def inputs(
    images: Sequence[Example],
    preprocess: Preprocess,
    *,
    batch_size: int,
    change: Change = unchanged,
) -> Iterator[NDArray[np.float32]]:
    """Give the images in their order as scoring sees them: (up to batch_size, size, size).

    Args:
        images: In the order that they are given in.
        preprocess: The size of the square.
        batch_size: Of all batches but the last.
        change: Of each image's pixels, with a generator of the image's own, before anything else.
    """
    squares = (
        grain.MapDataset.source(images)
        .seed(0)
        .random_map(lambda example, rng: network_input(change(example.pixels(), rng), preprocess))
    )
    yield from prefetched(squares.batch(batch_size))


def prefetched(batches: grain.MapDataset) -> Iterator[Any]:
    """Decode ahead of the device, in threads: the image libraries release the interpreter."""
    threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _register(name: str) -> None:
    if name not in BUILDERS:
        raise DataError(f"there is no data set {name!r}; choose one of {', '.join(BUILDERS)}")
    import_module(BUILDERS[name])


def _train_sample(example: Example, preprocess: Preprocess) -> Batch:
    # Rounded, since a quarter of the bytes goes to the device; augmentation changes more than that.
    square = network_input(example.pixels(), preprocess)
    return Batch(
        image=np.rint(square * 255).astype(np.uint8), label=np.asarray(example.label, np.int32)
    )

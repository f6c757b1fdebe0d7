"""Labelled radiographs from TFDS, in the order and form that training and evaluation need."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, SupportsIndex, get_args

import grain.python as grain
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from fracjax.configs import DataSet, Preprocess, Target
from fracjax.errors import DataError
from fracjax.image.raster import decode_gray
from fracjax.image.render import network_input

OWN_IMAGES: DataSet = "own_images"

BUILDERS: Mapping[str, str] = {name: f"tfds_mura.{name}" for name in get_args(DataSet)}
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
        """As ``data set:split``; of own images with a digest, since no two such sets are alike."""
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def facts(self) -> list[Example]:
        """All the images but for their bytes."""
        return [facts for facts, _ in self._read]

    @cached_property
    def sha256(self) -> str:
        """Digest of these images, with all that is learned of them, in any order."""
        rows = sorted(
            "\t".join(
                [
                    *(fact.source, fact.target, str(fact.label), fact.study_id, fact.group),
                    *(fact.body_part, str(fact.hardware), "+".join(fact.findings), digest),
                ]
            )
            for fact, digest in self._read
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> "Radiographs":
        """Give some of the images, in that order, without reading them."""
        part = Radiographs(self.name, self.version, self.splits, _Chosen(self._records, indices))
        if "_read" in self.__dict__:
            part._read = [self._read[index] for index in indices]
        return part

    @cached_property
    def _read(self) -> list[tuple[Example, str]]:
        """Read all in one pass: the images without their bytes, and the digests of those."""
        return [
            (dataclasses.replace(image, encoded=b""), hashlib.sha256(image.encoded).hexdigest())
            for image in self
        ]

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


class _Chosen(Sequence[Any]):
    """Some records of a source."""

    def __init__(self, records: Any, indices: Sequence[int]) -> None:
        self._records = records
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._records[self._indices[index]]


def unchanged(pixels: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
    """Leave an image as it is."""
    return pixels


def prepare(name: str, archive_dir: Path, data_dir: Path) -> dict[str, int]:
    """Convert an archive that a person has unpacked into ArrayRecord files.

    Args:
        name: A key of :data:`BUILDERS`.
        archive_dir: The folder that holds ``FracAtlas``, ``MURA-v1.1``, ...; of own images the one
            that holds the images and ``labels.csv``. Nothing is written there.
        data_dir: Where the converted set goes.

    Returns:
        The number of images in each split.

    Raises:
        DataError: The archive is missing or not in the shape of its release; or own images are
            prepared in ``data_dir`` already, of which nobody knows whether they are still these.
    """
    _register(name)
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if name == OWN_IMAGES:
        if builder.data_path.exists():
            raise DataError(
                f"{data_dir} holds own images already; give another --data-dir, or delete "
                f"{data_dir / name} first"
            )
        if data_dir.resolve().is_relative_to(archive_dir.resolve()):
            raise DataError(
                f"{data_dir} lies in {archive_dir}, where nothing is written; give another "
                "--data-dir"
            )
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


def splits(name: str, data_dir: Path) -> tuple[str, ...]:
    """Name the splits of a prepared data set.

    Raises:
        DataError: The set is not prepared in ``data_dir``.
    """
    return tuple(_prepared(name, data_dir).info.splits)


def load(name: str, splits: Sequence[str], data_dir: Path) -> Radiographs:
    """Open splits of a prepared data set. Neither this nor reading imports TensorFlow.

    Raises:
        DataError: The set is not prepared in ``data_dir``, has no such split, or it is named twice.
    """
    builder = _prepared(name, data_dir)
    if len(set(splits)) < len(splits):
        raise DataError(f"of {', '.join(splits)} one is named twice; name each split once")
    for split in splits:
        if split not in builder.info.splits:
            raise DataError(
                f"{name} has no split {split!r}; choose from {', '.join(builder.info.splits)}"
            )

    def opened(chosen: Sequence[str], names: Sequence[str]) -> Radiographs:
        skip = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source("+".join(chosen), decoders=skip)
        return Radiographs(name, str(builder.version), names, records)

    names = [f"{name}:{split}" for split in splits]
    if name == OWN_IMAGES:
        names = [
            f"{full}:{opened([split], [full]).sha256[:12]}"
            for split, full in zip(splits, names, strict=True)
        ]
    return opened(splits, names)


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


def hold_out(images: Radiographs, part: float, seed: int) -> tuple[Radiographs, Radiographs]:
    """Divide images by whole groups, drawn by a digest of their names.

    Args:
        images: In any order; who stands where does not depend on it, nor on other groups.
        part: Of the groups that is held out, about.
        seed: Of the draw.

    Returns:
        The images to learn from, and those held out.
    """
    is_out = [_fraction(f"{seed}:{fact.group}") < part for fact in images.facts]
    return (
        images.subset([index for index, out in enumerate(is_out) if not out]),
        images.subset([index for index, out in enumerate(is_out) if out]),
    )


def shuffled(count: int, *, epochs: int, seed: int) -> grain.MapDataset:
    """Give the indices of images in the order of training: each epoch in another one.

    It is in random access: what comes at a place is the same whenever it is asked for, so the
    number of steps done is all that a resumed run needs to know.
    """
    return grain.MapDataset.source(range(count)).seed(seed).shuffle().repeat(epochs)


def batches(
    samples: grain.MapDataset,
    *,
    batch_size: int,
    parts: int = 1,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """Put samples together to the shares of batches that one process gives its devices.

    All processes together give the same batches, with the same order in them, as one alone.

    Args:
        samples: In order, each a tree of arrays.
        batch_size: Samples of a whole batch; a multiple of ``parts * processes``.
        parts: What a batch is divided into, to be computed one after the other.
        process: This one, from 0.
        processes: How many there are.

    Returns:
        In random access, trees of arrays (parts, batch_size / parts / processes, ...).
    """
    whole = samples[: len(samples) // batch_size * batch_size]
    shares = whole.batch(batch_size // (parts * processes), drop_remainder=True)
    return shares[process::processes].batch(parts, drop_remainder=True)


def samples(
    order: grain.MapDataset,
    images: Radiographs,
    weights: NDArray[np.float32],
    preprocess: Preprocess,
) -> grain.MapDataset:
    """Read, decode and render the images of an order, each with what is known of it.

    Args:
        order: Indices.
        images: What they are of.
        weights: float32 (n, outputs, 2), as :mod:`fracjax.losses` takes them.
        preprocess: How a picture becomes the network's input.
    """

    def sample(index: int) -> dict[str, NDArray[Any]]:
        return {"image": _rounded_input(images[index], preprocess), "weights": weights[index]}

    return order.map(sample)


def indices(order: grain.MapDataset) -> grain.MapDataset:
    """Give the indices of an order as samples, for images that are on the device already."""
    return order.map(lambda index: {"index": np.asarray(index, np.int32)})


def resident(
    images: Radiographs, weights: NDArray[np.float32], preprocess: Preprocess
) -> dict[str, NDArray[Any]]:
    """Read, decode and render all images at once.

    Returns:
        ``image`` uint8 (n, size, size), and ``weights`` as given.
    """
    order = grain.MapDataset.source(range(len(images)))
    squares = order.map(lambda index: _rounded_input(images[index], preprocess))
    size = preprocess.image_size
    rows = np.empty((len(images), size, size), np.uint8)
    for index, square in enumerate(prefetched(squares)):
        rows[index] = square
    return {"image": rows, "weights": weights}


def inputs(
    images: Sequence[Example],
    preprocess: Preprocess,
    *,
    batch_size: int,
    change: Change = unchanged,
    report: Callable[[int], None] = lambda _: None,
) -> Iterator[NDArray[np.float32]]:
    """Give the images in their order as scoring sees them: (up to batch_size, size, size).

    Args:
        images: In the order that they are given in.
        preprocess: The size of the square.
        batch_size: Of all batches but the last.
        change: Of each image's pixels, with a generator of the image's own, before anything else.
        report: Called before each batch with how many images were given.
    """
    squares = (
        grain.MapDataset.source(images)
        .seed(0)
        .random_map(lambda example, rng: network_input(change(example.pixels(), rng), preprocess))
    )
    given = 0
    for batch in prefetched(squares.batch(batch_size)):
        report(given)
        yield batch
        given += len(batch)


def prefetched(elements: grain.MapDataset) -> Iterator[Any]:
    """Decode ahead of the device, in threads: the image libraries release the interpreter."""
    threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(elements.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _prepared(name: str, data_dir: Path) -> Any:
    """Give the builder of a prepared data set."""
    _register(name)
    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.info.splits:
        raise DataError(
            f"{data_dir} holds no prepared {name}; run "
            f"'fracjax prepare {name} --archive-dir DIR --data-dir {data_dir}' first"
        )
    return builder


def _register(name: str) -> None:
    if name not in BUILDERS:
        raise DataError(f"there is no data set {name!r}; choose one of {', '.join(BUILDERS)}")
    import_module(BUILDERS[name])


def _rounded_input(example: Example, preprocess: Preprocess) -> NDArray[np.uint8]:
    # Rounded, since a quarter of the bytes goes to the device; augmentation changes more than that.
    square = network_input(example.pixels(), preprocess)
    return np.rint(square * 255).astype(np.uint8)


def study_key(study_id: str) -> str:
    """Give what stands for a study in a message; who can guess a study's name can check it.

    >>> study_key("patient00001_XR_WRIST_study1")
    '67aa5f8e0c38'
    """
    return hashlib.sha256(study_id.encode()).hexdigest()[:12]


def _fraction(name: str) -> float:
    """Draw a number in 0..1 by a digest."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

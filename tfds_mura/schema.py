"""The feature schema that every builder here gives, so that a trainer need not know which it reads.

An example is one image:

========== ======================= ===============================================================
image      uint8 (height, width, 1) grey levels, upright: of a plain 8-bit file its own bytes; of
                                   anything else the picture that scoring would show, as PNG
label      0 or 1                  whether the image, or in MURA its study, is positive
target     str                     what a positive label means: ``fracture`` or ``abnormality``
body_part  str                     ``hand``, ``wrist``, ...; several are joined by ``+``
view       str                     projections, joined by ``+``; empty where unknown
study_id   str                     images of one study share it
group      str                     patient, or a proxy; no group stands in two splits
source     str                     the file's path inside the archive
boxes      (n, 4) float32          ymin, xmin, ymax, xmax of each finding, 0..1; may be empty
hardware   -1, 0 or 1              metal in the picture: unknown, no, yes
findings   (n,) str                what else the image is labelled with: ``cast``, ``ao:23-M/3.1``;
                                   what its data set labels and is not here, is absent
truncated  bool                    the file ends early, and only its intact rows are here
========== ======================= ===============================================================
"""

import csv
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

# A name that imports TensorFlow when it is first used, and so only where tf.data reads the set.
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf

from fracjax.errors import DataError
from fracjax.image.picture import Picture, Rejected
from fracjax.image.raster import decode_gray, read_raster
from tfds_mura import buckets

buckets.install()

FOLDS = 5

PNG_LEVEL = 3
"""Of 0..9. For radiographs of FracAtlas it takes a third of the time of 6, and 16 % more space."""

MOST_THREADS = 8
"""That read images ahead: each may hold a large one."""

T = TypeVar("T")
R = TypeVar("R")


class GrayImage(tfds.features.Image):  # type: ignore[misc]  # TFDS carries no types
    """An image that every reader of the set gets alike: one grey channel, upright.

    The decoders of TFDS itself leave three equal channels where a file stores them, and know no
    EXIF orientation, though boxes do. So the files are decoded as they are for scoring.
    """

    def decode_example_np(self, example: bytes) -> NDArray[np.uint8]:
        """Decode the stored bytes to (height, width, 1)."""
        return decode_gray(example)[0][..., np.newaxis].astype(np.uint8, copy=False)

    def decode_example(self, example: Any) -> Any:
        """Decode the stored bytes in a tf.data pipeline."""
        image = tf.numpy_function(self.decode_example_np, [example], tf.uint8)
        image.set_shape(self.shape)
        return image


def features() -> tfds.features.FeaturesDict:
    """Build the schema described above. Images are given to it as encoded bytes."""
    return tfds.features.FeaturesDict(
        {
            "image": GrayImage(shape=(None, None, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=2),
            "target": tfds.features.Text(),
            "body_part": tfds.features.Text(),
            "view": tfds.features.Text(),
            "study_id": tfds.features.Text(),
            "group": tfds.features.Text(),
            "source": tfds.features.Text(),
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
            "hardware": tfds.features.Scalar(np.int8),
            "findings": tfds.features.Sequence(tfds.features.Text()),
            "truncated": tfds.features.Scalar(np.bool_),
        }
    )


def find_archive(
    dl_manager: tfds.download.DownloadManager, name: str, needed: tuple[str, ...], way_out: str
) -> Path:
    """Find an archive that the user has unpacked in the manual directory.

    Raises:
        DataError: The directory, or something in it, is missing; the message says how to get it.
    """
    try:
        root = Path(dl_manager.manual_dir) / name
    except AssertionError as error:  # how TFDS tells that the directory is missing or empty
        raise DataError(_one_line(str(error))) from None
    require(root, needed, way_out)
    return root


def require(root: Path, names: tuple[str, ...], way_out: str) -> None:
    """Check that an archive is unpacked where its builder looks for it.

    Raises:
        DataError: Something is missing; the message says what, and ``way_out``.
    """
    for name in names:
        if not (root / name).exists():
            raise DataError(f"{root / name} is missing. {_one_line(way_out)}")


def read_table(path: Path, columns: set[str]) -> list[dict[str, str]]:
    """Read a csv file that has a header.

    Raises:
        DataError: One of ``columns`` is missing, or it is no text.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    missing = columns - set(reader.fieldnames or ())
    if missing:
        raise DataError(f"{path} has no column {min(missing)}; use the file as released")
    return list(reader)


def read_text(path: Path) -> str:
    """Read a text file of an archive, with its line ends as they are.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; use the file as released") from None


def ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Read items in threads, some ahead of what is taken: the image libraries release the lock.

    Args:
        read: Safe to be called in several threads; what it raises is raised in its turn.
        items: What to read.

    Yields:
        The results, in the order of the items.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def intact_image(path: Path) -> tuple[bytes, bool]:
    """Read an image that decodes whole: the file's own bytes, or its intact rows as PNG.

    Files that end early can all be of one class (in FracAtlas about 59 JPEGs, none of them
    fractured). To drop, fail or grey them would mark the class; so they are cropped, and flagged.

    Raises:
        DataError: The file cannot be decoded to 8-bit grey levels.
    """
    data = path.read_bytes()
    try:
        pixels, _, notes = decode_gray(data)
    except Rejected as rejected:
        raise DataError(unusable(path, rejected.detail)) from rejected
    if pixels.dtype != np.uint8:
        raise DataError(unusable(path, "more than 8 bits a pixel"))
    if "truncated_rows" not in notes:
        return data, False
    return encode_shown(pixels / 255), True


def encode_shown(shown: NDArray[np.floating[Any]]) -> bytes:
    """Encode a displayed picture, (height, width) in 0..1, as 8-bit PNG.

    The levels are rounded to those of a display, as the network's input is for training.
    """
    png = io.BytesIO()
    levels = np.rint(shown * 255).astype(np.uint8)
    Image.fromarray(levels).save(png, format="PNG", compress_level=PNG_LEVEL)
    return png.getvalue()


def shown_image(data: bytes, picture: Picture) -> tuple[bytes, bool]:
    """Give what is stored of a picture that the project's reader has shown.

    A plain 8-bit file is a display already, and keeps its own bytes. Of DICOM and of deeper files
    it is the grey scale that decides what is seen, and it is applied here as for scoring: so
    training sees what scoring would see of the same file, but for large JPEG 2000, of which scoring
    decodes a part. Readers need not know of the rest.

    Args:
        data: The file.
        picture: What :func:`fracjax.image.read_picture` made of it.

    Returns:
        Bytes of an 8-bit image file, and whether the file ends early.
    """
    truncated = "truncated_rows" in picture.notes
    if picture.header is None and picture.voi_source == "none" and not truncated:
        return data, False
    return encode_shown(picture.display), truncated


def read_shown(path: Path) -> tuple[bytes, bool]:
    """Read a plain image file of any depth as scoring shows it; see :func:`shown_image`.

    Raises:
        DataError: It yields no picture.
    """
    data = path.read_bytes()
    try:
        return shown_image(data, read_raster(data))
    except Rejected as rejected:
        raise DataError(unusable(path, rejected.detail)) from rejected


def box(top: float, left: float, bottom: float, right: float) -> tfds.features.BBox:
    """Make a box of parts of a picture, and keep it inside."""
    ymin, xmin, ymax, xmax = np.clip((top, left, bottom, right), 0, 1)
    return tfds.features.BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)


def assign_folds(labels: list[int], groups: list[str]) -> list[list[int]]:
    """Divide images into :data:`FOLDS` folds of like size and rate that share no group.

    Returns:
        For each fold, the indices of its images; the same for the same labels and groups.

    Raises:
        DataError: There are too few groups, or too few images of either class.
    """
    try:
        folds = [
            held_out.tolist()
            for _, held_out in StratifiedGroupKFold(FOLDS).split(labels, labels, groups)
        ]
    except ValueError:
        folds = []
    if not folds or not all(folds):
        raise DataError(
            f"{len(set(groups))} groups and {min(labels.count(0), labels.count(1))} images of the "
            f"rarer class are too few for {FOLDS} folds; use the whole archive"
        )
    return folds


def unusable(path: Path, why: str) -> str:
    """Say that a file of an archive cannot be used, and what to do."""
    return f"{path} cannot be used: {why}; unpack the archive again, or take the file off its list"


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""RSNA 2022 Cervical Spine Fracture Detection (Lin et al., Radiology: AI 5:5, 2023) for TFDS.

A modality of its own: axial slices of CT, of which a model of radiographs should learn nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from fracjax.errors import DataError
from fracjax.image import Rejected, codecs, grayscale
from fracjax.image.header import number
from fracjax.image.parse import parse, pydicom_silenced
from tfds_mura import schema

ARCHIVE = "rsna-2022-cervical-spine-fracture-detection"

NEGATIVE_SLICES = 20
"""So many of a study without fracture are taken, evenly spaced. Studies have some hundred slices,
less than a millimetre apart, and neighbours look alike."""

BONE_CENTER, BONE_WIDTH = 500.0, 2000.0
"""The grey scale, in HU: a usual window for bone. Those of the headers differ between the sites."""

LEVELS = tuple(f"C{number}" for number in range(1, 8))

Example = dict[str, Any]
Boxes = dict[tuple[str, int], list[tuple[float, float, float, float]]]
Slices = list[tuple[str, int]]


class RsnaCervicalSpine(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """Slices in five folds, ``fold_0`` to ``fold_4``, that share no study, and so no patient."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Join RSNA 2022 Cervical Spine Fracture Detection on Kaggle, accept its rules, and unpack
    {ARCHIVE}.zip in a folder of that name in the manual
    directory, so that train.csv, train_bounding_boxes.csv and train_images lie there.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.1148/ryai.230034",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Example]]]:
        root = schema.find_archive(
            dl_manager,
            ARCHIVE,
            ("train.csv", "train_bounding_boxes.csv", "train_images"),
            self.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )
        boxes = read_boxes(root)
        slices = choose_slices(root, read_studies(root), boxes)
        labels = [int(chosen in boxes) for chosen in slices]
        folds = schema.assign_folds(labels, [study for study, _ in slices])
        return {
            f"fold_{fold}": self._generate_examples(root, [slices[i] for i in members], boxes)
            for fold, members in enumerate(folds)
        }

    def _generate_examples(
        self, root: Path, slices: Slices, boxes: Boxes
    ) -> Iterator[tuple[str, Example]]:
        for study, position in slices:
            source = f"train_images/{study}/{position}.dcm"
            display = read_slice(root / source)
            height, width = display.shape
            framed = boxes.get((study, position), [])
            yield (
                source,
                {
                    "image": schema.encode_shown(display),
                    "label": int(bool(framed)),
                    "target": "fracture",
                    "body_part": "spine",
                    "view": "axial",
                    "study_id": study,
                    "group": study,
                    "source": source,
                    "boxes": [
                        schema.box(y / height, x / width, (y + h) / height, (x + w) / width)
                        for x, y, w, h in framed
                    ],
                    "hardware": -1,
                    "findings": [],
                    "truncated": False,
                },
            )


def read_studies(root: Path) -> dict[str, int]:
    """Read which studies show a fracture of the cervical spine, by study.

    Raises:
        DataError: The table is not as released, or contradicts itself.
    """
    path = root / "train.csv"
    studies = {}
    for row in schema.read_table(path, {"StudyInstanceUID", "patient_overall", *LEVELS}):
        flags = [row[name] for name in ("patient_overall", *LEVELS)]
        if not set(flags) <= {"0", "1"} or flags[0] != max(flags[1:]):
            raise DataError(
                f"{path} does not say plainly whether {row['StudyInstanceUID']} has a fracture; "
                "use the file as released"
            )
        studies[row["StudyInstanceUID"]] = int(flags[0])
    return studies


def read_boxes(root: Path) -> Boxes:
    """Read the boxes (x, y, width, height in pixels) of fractures, by study and slice number.

    Raises:
        DataError: A value is no number.
    """
    path = root / "train_bounding_boxes.csv"
    columns = ("x", "y", "width", "height")
    boxes: Boxes = {}
    for row in schema.read_table(path, {"StudyInstanceUID", "slice_number", *columns}):
        try:
            x, y, width, height = (float(row[name]) for name in columns)
            key = row["StudyInstanceUID"], int(row["slice_number"])
        except ValueError:
            raise DataError(f"{path} holds what is no number; use the file as released") from None
        boxes.setdefault(key, []).append((x, y, width, height))
    return boxes


def choose_slices(root: Path, studies: dict[str, int], boxes: Boxes) -> Slices:
    """Choose the slices whose label is known.

    Those with a box are positive, and :data:`NEGATIVE_SLICES` of each study without any fracture
    are negative. The other slices of studies with a fracture are left
    out: nobody has said what they show.

    Returns:
        Study and slice number, in order.

    Raises:
        DataError: A boxed slice or a study is missing, or a study without fracture has a box.
    """
    chosen = []
    for study, fractured in sorted(studies.items()):
        folder = root / "train_images" / study
        files = sorted(int(path.stem) for path in folder.glob("*.dcm") if path.stem.isdecimal())
        boxed = {position for name, position in boxes if name == study} if fractured else set()
        if not files or not boxed <= set(files):
            raise DataError(f"{folder} lacks slices; unpack {ARCHIVE}.zip again")
        even = np.linspace(0, len(files) - 1, min(NEGATIVE_SLICES, len(files))).round().astype(int)
        taken = sorted(boxed) if fractured else [files[index] for index in even]
        chosen += [(study, position) for position in taken]
    odd = sorted({study for study, _ in boxes if not studies.get(study)})
    if odd:
        raise DataError(
            f"{root / 'train_bounding_boxes.csv'} frames a fracture in {odd[0]}, which has none in "
            "train.csv; use the files as released"
        )
    return chosen


def read_slice(path: Path) -> NDArray[np.float32]:
    """Read a slice of CT and show it in the window for bone: (height, width) in 0..1.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        with pydicom_silenced():
            dataset, syntax = parse(path.read_bytes())
            plugin = codecs.PLUGIN if syntax in codecs.SYNTAXES else ""
            stored = pixel_array(dataset, decoding_plugin=plugin)
            slope = number(dataset, "RescaleSlope")
            values = grayscale.rescale(
                stored,
                1.0 if slope is None else slope,
                number(dataset, "RescaleIntercept") or 0.0,
            )
        if values.ndim != 2:
            raise DataError(schema.unusable(path, "it is no single grey slice"))
        return grayscale.window(values, BONE_CENTER, BONE_WIDTH, "LINEAR")
    except (DataError, MemoryError):
        raise
    except Rejected as rejected:
        raise DataError(schema.unusable(path, rejected.detail)) from None
    except Exception as error:  # noqa: BLE001 - pydicom and the decoders, fed damaged bytes
        raise DataError(schema.unusable(path, type(error).__name__)) from None

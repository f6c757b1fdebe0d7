"""GRAZPEDWRI-DX (Nagy et al., Scientific Data 9:222, 2022) for TFDS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fracjax.errors import DataError
from tfds_mura import schema

ARCHIVE = "GRAZPEDWRI-DX"
LABELS = "folder_structure/yolov5/labels"

FLAGS = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
"""The release leaves a flag empty where it is not set."""

FLAG_COLUMNS = ("fracture_visible", "diagnosis_uncertain", "cast", "osteopenia", "metal")
COLUMNS = {"filestem", "patient_id", "study_number", "projection", "ao_classification"}

VIEWS = {"1": "frontal", "2": "lateral", "3": "oblique"}
"""By ``projection``."""

CLASSES = (
    *("boneanomaly", "bonelesion", "foreignbody", "fracture", "metal"),
    *("periostealreaction", "pronatorsign", "softtissue", "text"),
)
"""Of the boxes, in the order of the release's ``yolov5/meta.yaml``."""

FINDINGS = frozenset(CLASSES) - {"fracture", "metal", "text"}
"""Classes of boxes that are findings of the image; ``text`` is a marker."""

Example = dict[str, Any]
Boxes = dict[str, list[tfds.features.BBox]]


class GrazpedwriDx(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """GRAZPEDWRI-DX in five folds, ``fold_0`` to ``fold_4``, that share no patient."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get dataset.csv, folder_structure.zip and the four images_part*.zip (CC BY 4.0) from figshare,
    doi 10.6084/m9.figshare.14825193, and unpack them in GRAZPEDWRI-DX in the manual directory, so
    that GRAZPEDWRI-DX/dataset.csv and GRAZPEDWRI-DX/folder_structure/yolov5/labels lie there, and
    the PNG files in any folder below.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.6084/m9.figshare.14825193",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Example]]]:
        root = schema.find_archive(
            dl_manager, ARCHIVE, ("dataset.csv", LABELS), self.MANUAL_DOWNLOAD_INSTRUCTIONS
        )
        rows = [row for row in read_rows(root) if not FLAGS[row["diagnosis_uncertain"]]]
        files = find_images(root, rows)
        labels = [FLAGS[row["fracture_visible"]] for row in rows]
        folds = schema.assign_folds(labels, [row["patient_id"] for row in rows])
        return {
            f"fold_{fold}": self._generate_examples(root, [rows[index] for index in members], files)
            for fold, members in enumerate(folds)
        }

    def _generate_examples(
        self, root: Path, rows: list[dict[str, str]], files: dict[str, Path]
    ) -> Iterator[tuple[str, Example]]:
        shown = schema.ahead(schema.read_shown, (files[row["filestem"]] for row in rows))
        for row, (data, truncated) in zip(rows, shown, strict=True):
            name = row["filestem"]
            boxes = read_boxes(root / LABELS / f"{name}.txt")
            visible = FLAGS[row["fracture_visible"]]
            yield (
                name,
                {
                    "image": data,
                    "label": visible,
                    "target": "fracture",
                    "body_part": "wrist",
                    "view": VIEWS.get(row["projection"].removesuffix(".0"), ""),
                    "study_id": f"{row['patient_id']}_{row['study_number']}",
                    "group": row["patient_id"],
                    "source": files[name].relative_to(root).as_posix(),
                    "boxes": boxes.get("fracture", []),
                    "hardware": int(FLAGS[row["metal"]] or "metal" in boxes),
                    "findings": [
                        *(name for name in ("cast", "osteopenia") if FLAGS[row[name]]),
                        *sorted(FINDINGS & set(boxes)),
                        *(f"ao:{code}" for code in ao_codes(row) if visible),
                    ],
                    "truncated": truncated,
                },
            )


def read_rows(root: Path) -> list[dict[str, str]]:
    """Read ``dataset.csv``, sorted by image.

    Raises:
        DataError: A column is missing or a value is not as the release has it.
    """
    path = root / "dataset.csv"
    rows = schema.read_table(path, COLUMNS | set(FLAG_COLUMNS))
    for row in rows:
        for name in FLAG_COLUMNS:
            if row[name] not in FLAGS:
                raise DataError(
                    f"{path} has {name} {row[name]!r} for {row['filestem']}; "
                    "use the file as released"
                )
    return sorted(rows, key=lambda row: row["filestem"])


def ao_codes(row: dict[str, str]) -> list[str]:
    """List the codes of the fractures (AO classification of long-bone fractures in children)."""
    codes = (code.strip() for code in row["ao_classification"].split(";"))
    return list(dict.fromkeys(filter(None, codes)))


def find_images(root: Path, rows: list[dict[str, str]]) -> dict[str, Path]:
    """Find each image of the table, in whatever folder its part was unpacked.

    Raises:
        DataError: One is missing.
    """
    files = {path.stem: path for path in sorted(root.rglob("*.png"))}
    for row in rows:
        if row["filestem"] not in files:
            raise DataError(
                f"{row['filestem']}.png is in dataset.csv, but in no folder of {root}; "
                "unpack all four images_part*.zip"
            )
    return files


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of an image by class; none where the release has no file for it.

    A line is a class and, as parts of the picture, the centre across and down, width and height.

    Raises:
        DataError: A line is not as the release has it.
    """
    boxes: Boxes = {}
    lines = schema.read_text(path).splitlines() if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            index, *numbers = line.split()
            across, down, width, height = map(float, numbers)
            name = CLASSES[int(index)]
        except (ValueError, IndexError):
            raise DataError(f"{path} has the line {line!r}; use the file as released") from None
        boxes.setdefault(name, []).append(
            schema.box(down - height / 2, across - width / 2, down + height / 2, across + width / 2)
        )
    return boxes

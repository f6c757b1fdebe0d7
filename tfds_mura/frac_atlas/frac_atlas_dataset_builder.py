"""FracAtlas (Abedeen et al., Scientific Data 10:521, 2023) for TFDS."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from fracjax.errors import DataError
from fracjax.image.raster import decode_gray
from tfds_mura import schema

FOLDS = 5

GROUP_BLOCK = 20
"""Consecutive ids are often views of one patient; without ``groups.csv``, blocks share a group."""

REGIONS = ("hand", "leg", "hip", "shoulder")
VIEWS = ("frontal", "lateral", "oblique")

CONTRADICTORY = frozenset(
    f"IMG{number:07d}.jpg" for number in (2886, 4243, 2952, 4262, 2998, 4280, 3034, 4314, 4341)
)
"""Near-identical pictures that carry opposite labels: unknown, so in no split."""

IMAGE_FOLDERS = {"0": "Non_fractured", "1": "Fractured"}
COCO = "Annotations/COCO JSON/COCO_fracture_masks.json"

Example = dict[str, Any]


class FracAtlas(tfds.core.GeneratorBasedBuilder):
    """FracAtlas in five folds, ``fold_0`` to ``fold_4``, that share no leakage group."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get FracAtlas.zip (CC BY 4.0) from figshare, doi 10.6084/m9.figshare.22363012, and unpack it
    in the manual directory, so that FracAtlas/dataset.csv, FracAtlas/images/Fractured and
    FracAtlas/images/Non_fractured lie there.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.6084/m9.figshare.22363012",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Example]]]:
        root = Path(dl_manager.manual_dir) / "FracAtlas"
        schema.require(
            root,
            ("dataset.csv", "images/Fractured", "images/Non_fractured", COCO),
            self.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )
        rows = [row for row in read_rows(root) if not is_contradictory(root, row)]
        groups = read_groups(root, [row["image_id"] for row in rows])
        boxes = read_boxes(root)
        return {
            f"fold_{fold}": self._generate_examples(
                root, [rows[index] for index in members], groups, boxes
            )
            for fold, members in enumerate(assign_folds(rows, groups))
        }

    def _generate_examples(
        self,
        root: Path,
        rows: list[dict[str, str]],
        groups: dict[str, str],
        boxes: dict[str, list[tfds.features.BBox]],
    ) -> Iterator[tuple[str, Example]]:
        for row in rows:
            name = row["image_id"]
            source = f"images/{IMAGE_FOLDERS[row['fractured']]}/{name}"
            data, truncated = intact_image((root / source).read_bytes())
            yield (
                name,
                {
                    "image": data,
                    "label": int(row["fractured"]),
                    "target": "fracture",
                    "body_part": "+".join(part for part in REGIONS if row[part] == "1"),
                    "view": "+".join(view for view in VIEWS if row[view] == "1"),
                    "study_id": Path(name).stem,
                    "group": groups[name],
                    "source": source,
                    "boxes": boxes.get(name, []),
                    "hardware": int(row["hardware"]),
                    "truncated": truncated,
                },
            )


def read_rows(root: Path) -> list[dict[str, str]]:
    """Read ``dataset.csv``, sorted by image.

    Raises:
        DataError: A column is missing or a row is not as the release has it.
    """
    needed = {"image_id", "fractured", "fracture_count", "hardware", *REGIONS, *VIEWS}
    with (root / "dataset.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{root / 'dataset.csv'} has no column {sorted(missing)[0]}; "
                "use the file of the FracAtlas release as it is"
            )
        rows = sorted(reader, key=lambda row: row["image_id"])
    for row in rows:
        if row["fractured"] not in IMAGE_FOLDERS:
            raise DataError(
                f"{root / 'dataset.csv'}: fractured is {row['fractured']!r} for "
                f"{row['image_id']}, not 0 or 1; use the file of the release as it is"
            )
    return rows


def is_contradictory(root: Path, row: dict[str, str]) -> bool:
    """Tell whether an image's label cannot be known: the release contradicts itself about it."""
    counted = int(row["fracture_count"]) > 0
    filed = (root / "images" / IMAGE_FOLDERS[row["fractured"]] / row["image_id"]).exists()
    return row["image_id"] in CONTRADICTORY or counted != (row["fractured"] == "1") or not filed


def read_groups(root: Path, names: list[str]) -> dict[str, str]:
    """Map images to leakage groups: ``groups.csv`` where it is, else blocks of consecutive ids.

    Raises:
        DataError: ``groups.csv`` does not know an image.
    """
    path = root / "groups.csv"
    if not path.exists():
        return {name: f"block-{int(Path(name).stem[3:]) // GROUP_BLOCK}" for name in names}
    with path.open(newline="", encoding="utf-8") as file:
        known = {row["image_id"]: row["group"] for row in csv.DictReader(file)}
    for name in names:
        if name not in known:
            raise DataError(f"{path} has no group for {name}; give each image one, or remove it")
    return {name: known[name] for name in names}


def assign_folds(rows: list[dict[str, str]], groups: dict[str, str]) -> list[list[int]]:
    """Divide images into folds of like size and fracture rate that share no group.

    Returns:
        For each fold, the indices of its rows.
    """
    labels = [row["fractured"] for row in rows]
    members = [groups[row["image_id"]] for row in rows]
    folds = StratifiedGroupKFold(FOLDS).split(np.zeros(len(rows)), labels, members)
    return [held_out.tolist() for _, held_out in folds]


def read_boxes(root: Path) -> dict[str, list[tfds.features.BBox]]:
    """Read the boxes of the fractures, relative to the picture as EXIF orients it."""
    coco = json.loads((root / COCO).read_text(encoding="utf-8"))
    images = {image["id"]: image for image in coco["images"]}
    boxes: dict[str, list[tfds.features.BBox]] = {}
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        left, top, width, height = annotation["bbox"]
        boxes.setdefault(image["file_name"], []).append(
            tfds.features.BBox(
                ymin=np.clip(top / image["height"], 0, 1),
                xmin=np.clip(left / image["width"], 0, 1),
                ymax=np.clip((top + height) / image["height"], 0, 1),
                xmax=np.clip((left + width) / image["width"], 0, 1),
            )
        )
    return boxes


def intact_image(data: bytes) -> tuple[bytes, bool]:
    """Give an image that decodes whole: the file's own bytes, or its intact rows as PNG.

    About 59 JPEGs of the release end early, all of them without fracture. To drop, fail or grey
    them would mark their class; so they are cropped, and flagged.
    """
    pixels, _, notes = decode_gray(data)
    if "truncated_rows" not in notes:
        return data, False
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    return png.getvalue(), True

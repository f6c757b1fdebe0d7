"""FracAtlas (Abedeen et al., Scientific Data 10:521, 2023) for TFDS."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fracjax.errors import DataError
from tfds_mura import schema

GROUP_BLOCK = 20
"""Consecutive ids are often views of one patient; without ``groups.csv``, blocks share a group."""

NAME = re.compile(r"IMG(?P<number>\d+)\.jpg", re.ASCII)

REGIONS = ("hand", "leg", "hip", "shoulder")
VIEWS = ("frontal", "lateral", "oblique")

CONTRADICTORY = frozenset(
    f"IMG{number:07d}.jpg" for number in (2886, 4243, 2952, 4262, 2998, 4280, 3034, 4314, 4341)
)
"""Near-identical pictures that carry opposite labels: unknown, so in no split."""

COPIES = frozenset(
    f"IMG{number:07d}.jpg"
    for number in (
        *(2519, 2738, 4036, 4120, 4121, 4122, 4123, 4130),
        *(4251, 4252, 4255, 4256, 4258, 4259),
    )
)
"""Copies of pictures of other folds, which ``groups.csv`` did not join: of eleven the truncated
one, of one the one that is turned by 90 degrees; and of a pair with opposite labels, both."""

IMAGE_FOLDERS = {"0": "Non_fractured", "1": "Fractured"}
COCO = "Annotations/COCO JSON/COCO_fracture_masks.json"

Example = dict[str, Any]


class FracAtlas(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """FracAtlas in five folds, ``fold_0`` to ``fold_4``, that share no leakage group."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "Findings.",
        "1.2.0": "Without copies of pictures of other folds; all others stay where they were.",
    }
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
        root = schema.find_archive(
            dl_manager,
            "FracAtlas",
            ("dataset.csv", "images/Fractured", "images/Non_fractured", COCO),
            self.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )
        rows = [row for row in read_rows(root) if not is_contradictory(root, row)]
        groups = read_groups(root, [row["image_id"] for row in rows])
        boxes = read_boxes(root)
        return {
            f"fold_{fold}": self._generate_examples(
                root,
                [rows[index] for index in members if rows[index]["image_id"] not in COPIES],
                groups,
                boxes,
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
            data, truncated = schema.intact_image(root / source)
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
                    "findings": [],
                    "truncated": truncated,
                },
            )


def read_rows(root: Path) -> list[dict[str, str]]:
    """Read ``dataset.csv``, sorted by image.

    Raises:
        DataError: A column is missing or a value is not as the release has it.
    """
    path = root / "dataset.csv"
    flags = ("fractured", "hardware", *REGIONS, *VIEWS)
    rows = schema.read_table(path, {"image_id", "fracture_count", *flags})
    for row in rows:
        odd = [name for name in flags if row[name] not in ("0", "1")]
        if not row["fracture_count"].isdecimal():
            odd.append("fracture_count")
        if not NAME.fullmatch(row["image_id"]):
            odd.append("image_id")
        if odd:
            raise DataError(
                f"{path} has {odd[0]} {row[odd[0]]!r} for {row['image_id']}; "
                "use the file as released"
            )
    return sorted(rows, key=lambda row: row["image_id"])


def is_contradictory(root: Path, row: dict[str, str]) -> bool:
    """Tell whether an image's label cannot be known: the release contradicts itself about it.

    Raises:
        DataError: The image is in no folder at all.
    """
    name = row["image_id"]
    filed = {
        fractured
        for fractured, folder in IMAGE_FOLDERS.items()
        if (root / "images" / folder / name).exists()
    }
    if not filed:
        raise DataError(
            f"{name} is in dataset.csv, but in no folder of {root / 'images'}; "
            "unpack FracAtlas.zip again"
        )
    counted = {"1" if int(row["fracture_count"]) > 0 else "0"}
    return name in CONTRADICTORY or not filed == counted == {row["fractured"]}


def read_groups(root: Path, names: list[str]) -> dict[str, str]:
    """Map images to leakage groups: ``groups.csv`` where it is, else blocks of consecutive ids.

    Raises:
        DataError: ``groups.csv`` lacks a column, or does not know an image.
    """
    path = root / "groups.csv"
    if not path.exists():
        numbers = {name: int(NAME.sub(r"\g<number>", name)) for name in names}
        return {name: f"block-{number // GROUP_BLOCK}" for name, number in numbers.items()}
    known = {
        row["image_id"]: row["group"] for row in schema.read_table(path, {"image_id", "group"})
    }
    for name in names:
        if name not in known:
            raise DataError(f"{path} has no group for {name}; give each image one, or remove it")
    return {name: known[name] for name in names}


def assign_folds(rows: list[dict[str, str]], groups: dict[str, str]) -> list[list[int]]:
    """Divide images into folds of like size and fracture rate that share no group.

    Returns:
        For each fold, the indices of its rows.
    """
    labels = [int(row["fractured"]) for row in rows]
    return schema.assign_folds(labels, [groups[row["image_id"]] for row in rows])


def read_boxes(root: Path) -> dict[str, list[tfds.features.BBox]]:
    """Read the boxes of the fractures, relative to the picture as EXIF orients it.

    Raises:
        DataError: The file is not whole.
    """
    boxes: dict[str, list[tfds.features.BBox]] = {}
    try:
        coco = json.loads(schema.read_text(root / COCO))
        images = {image["id"]: image for image in coco["images"]}
        for annotation in coco["annotations"]:
            image = images[annotation["image_id"]]
            left, top, width, height = annotation["bbox"]
            boxes.setdefault(image["file_name"], []).append(
                schema.box(
                    top / image["height"],
                    left / image["width"],
                    (top + height) / image["height"],
                    (left + width) / image["width"],
                )
            )
    except (ValueError, TypeError, LookupError, ZeroDivisionError):
        raise DataError(f"{root / COCO} is damaged; use the file as released") from None
    return boxes

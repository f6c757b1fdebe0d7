"""Make the dummy archives that the builder tests read: ``python tests/make_dummy_data.py``.

The archives are laid out as released, and hold one of each thing that a builder must get right.
The pictures are generated, from fixed seeds; none comes from a patient.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

REPOSITORY = Path(__file__).parents[1]

CONTRADICTORY_ID = 2886
MISFILED_ID = 3298
TRUNCATED_ID = 4028
ROTATED_ID = 101
"""Stored on its side, with EXIF orientation 6."""
FAR_PAIR = (1, 141)
"""In different blocks of ids, but one group in ``groups.csv``."""

BOX = (24, 8, 8, 12)
"""Left, top, width and height of the bright patch, in the upright 40 x 32 picture."""

MURA_IMAGES = (
    "train/XR_WRIST/patient00001/study1_positive/image1.png",
    "train/XR_WRIST/patient00001/study1_positive/image2.png",
    "train/XR_WRIST/patient00001/study2_negative/image1.png",
    "train/XR_HAND/patient00001/study1_negative/image1.png",
    "train/XR_ELBOW/patient00002/study1_negative/image1.png",
    "train/XR_SHOULDER/patient00003/study1_positive/image1.png",
    "valid/XR_WRIST/patient11185/study1_positive/image1.png",
    "valid/XR_WRIST/patient11185/study1_positive/image2.png",
    "valid/XR_FOREARM/patient11186/study1_negative/image1.png",
)
MURA_RGB = frozenset(MURA_IMAGES[4:7])


def gradient(seed: int, *, patch: bool = False) -> NDArray[np.uint8]:
    """Draw a dark, slightly noisy 40 x 32 gradient, with a bright patch at ``BOX`` if asked."""
    noise = np.random.default_rng(seed).integers(0, 16, (32, 40))
    picture = (noise + np.linspace(0, 80, 40)).astype(np.uint8)
    if patch:
        left, top, width, height = BOX
        picture[top : top + height, left : left + width] = 240
    return picture


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Encode a picture as a file."""
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_csv(path: Path, rows: list[list[str]]) -> None:
    """Write a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def frac_atlas_jpeg(number: int, *, fractured: bool) -> bytes:
    """Encode a FracAtlas picture, in the way that its id stands for."""
    image = Image.fromarray(gradient(number, patch=fractured))
    if number == TRUNCATED_ID:
        whole = encode(image, "JPEG", quality=90)
        return whole[: len(whole) - 200]
    if number == ROTATED_ID:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
        return encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)
    stored = image.convert("RGB") if number % 2 else image
    return encode(stored, "JPEG", quality=90)


def make_frac_atlas(manual_dir: Path) -> None:
    """Make a small FracAtlas: 24 images, 10 of them fractured, and 2 of no known label."""
    root = manual_dir / "FracAtlas"
    ordinary = [20 * block + offset for block in range(10) for offset in (0, 1)]
    special = [CONTRADICTORY_ID, MISFILED_ID, TRUNCATED_ID]
    columns = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count"
    table = [[*columns.split(","), "frontal", "lateral", "oblique"]]
    groups = [["image_id", "group"]]
    images, annotations = [], []
    for number in sorted([*ordinary, *special, 4100]):
        name = f"IMG{number:07d}.jpg"
        fractured = number in ordinary and number % 2 == 1
        leg = int(number % 4 == 0)
        counted = fractured or number == MISFILED_ID
        folder = "Fractured" if counted else "Non_fractured"
        flags = [1 - leg, leg, 0, int(number == 4100), int(number == 4100), int(number == 21), 0]
        table.append([name, *map(str, [*flags, int(fractured), int(counted), 1, leg, 0])])
        groups.append([name, str(FAR_PAIR[0] if number in FAR_PAIR else number // 20 + 1000)])
        write(root / "images" / folder / name, frac_atlas_jpeg(number, fractured=fractured))
        if counted:
            images.append({"id": number, "width": 40, "height": 32, "file_name": name})
            annotations.append({"id": number, "image_id": number, "category_id": 0, "bbox": BOX})
    write_csv(root / "dataset.csv", table)
    write_csv(root / "groups.csv", groups)
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "f"}]}
    write(
        root / "Annotations/COCO JSON/COCO_fracture_masks.json",
        (json.dumps(coco, indent=1) + "\n").encode(),
    )


def make_mura(manual_dir: Path) -> None:
    """Make a small MURA-v1.1: 6 images to train and 3 to validate, and one of macOS's files."""
    root = manual_dir / "MURA-v1.1"
    for number, source in enumerate(MURA_IMAGES):
        image = Image.fromarray(gradient(number + 10_000))
        stored = image.convert("RGB") if source in MURA_RGB else image
        write(root / source, encode(stored, "PNG"))
    resource_fork = (root / MURA_IMAGES[0]).with_name("._image1.png")
    write(resource_fork, b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    for split in ("train", "valid"):
        sources = [f"MURA-v1.1/{name}" for name in MURA_IMAGES if name.startswith(split)]
        studies = list(dict.fromkeys(source.rpartition("/")[0] for source in sources))
        write_csv(root / f"{split}_image_paths.csv", [[source] for source in sources])
        write_csv(
            root / f"{split}_labeled_studies.csv",
            [[f"{study}/", str(int(study.endswith("_positive")))] for study in studies],
        )


if __name__ == "__main__":
    make_frac_atlas(REPOSITORY / "tfds_mura/frac_atlas/dummy_data")
    make_mura(REPOSITORY / "tfds_mura/mura/dummy_data")

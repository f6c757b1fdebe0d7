"""Collect pictures that are no radiographs of a limb, for `benchmarks/gate.py` to measure with.

    python benchmarks/outside.py --out outside DICOM_FOLDER ...
    python benchmarks/gate.py outside/*

They come from packages that `requirements-dev.txt` installs, and from those files under any given
folder that are CT, MR, ultrasound, scintigraphy or secondary captures, or name the chest; each
picture is taken once. All become grey PNG files, since a colour picture is refused by itself.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pydicom
import typer
from numpy.typing import NDArray

PHOTOGRAPHS = "photographs"
TISSUE = "fundus, histology, cells, phantom"
DRAWINGS = "drawings, text"
FACES = "faces of 25 px"
OTHER_DICOM = "CT, MR, US, NM, secondary captures"
CHEST = "chest radiographs"

FILES = {
    PHOTOGRAPHS: (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/chelsea.png",
        "skimage/data/clock_motion.png",
        "skimage/data/coffee.png",
        "skimage/data/coins.png",
        "skimage/data/grass.png",
        "skimage/data/gravel.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/moon.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    ),
    TISSUE: (
        "skimage/data/cell.png",
        "skimage/data/ihc.png",
        "skimage/data/microaneurysms.png",
        "skimage/data/phantom.png",
        "skimage/data/retina.jpg",
    ),
    DRAWINGS: (
        "skimage/data/chessboard_GRAY.png",
        "skimage/data/color.png",
        "skimage/data/horse.png",
        "skimage/data/logo.png",
        "skimage/data/page.png",
        "skimage/data/text.png",
        "matplotlib/mpl-data/sample_data/logo2.png",
        "matplotlib/mpl-data/sample_data/Minduka_Present_Blue_Pack.png",
    ),
}
"""Files of packages, by collection."""

LFW = "skimage/data/lfw_subset.npy"
"""float (200, 25, 25) in 0..1, of which the first 100 are faces."""

NO_RADIOGRAPHS = frozenset({"CT", "MR", "US", "NM", "OT", "SC"})

SMALLEST_SIDE = 64


def installed(path: str) -> Path:
    """Find a file of an installed package, without importing that."""
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise typer.BadParameter(f"{package} is not installed; see requirements-dev.txt")
    return Path(spec.origin).parent / rest


def dicom_pictures(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Give the pictures (height, width) of a folder that are of a collection, with its name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(paths, start=1):  # a path may carry a patient's name
        try:
            dataset = pydicom.dcmread(path)
            modality = str(dataset.get("Modality", ""))
            if modality in NO_RADIOGRAPHS:
                collection = OTHER_DICOM
            elif "CHEST" in str(dataset.get("BodyPartExamined", "")).upper():
                collection = CHEST
            else:
                continue
            pixels = dataset.pixel_array.astype(np.float32)
            inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        except Exception as error:  # noqa: BLE001 - many of these files are broken on purpose
            typer.echo(f"left out: file {number}: {type(error).__name__}", err=True)
            continue
        if pixels.ndim > 2 and pixels.shape[-1] == 3:
            pixels = pixels.mean(axis=-1)
        if pixels.ndim > 2:
            pixels = pixels[len(pixels) // 2]
        low, high = np.percentile(pixels, (0.5, 99.5))
        if min(pixels.shape) < SMALLEST_SIDE or low == high:
            continue
        levels = np.clip((pixels - low) / (high - low), 0, 1)
        yield collection, np.rint(255 * (1 - levels if inverted else levels)).astype(np.uint8)


def main(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of DICOM files.")] = None,
    out: Annotated[Path, typer.Option(help="A folder that is made.")] = Path("outside"),
) -> None:
    """Write a folder of PNG files for each collection."""
    taken: set[bytes] = set()

    def keep(collection: str, picture: NDArray[np.uint8]) -> None:
        if picture.tobytes() in taken:
            return
        taken.add(picture.tobytes())
        directory = out / collection
        directory.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(directory / f"{len(taken):04}.png"), picture)

    for collection, paths in FILES.items():
        for path in paths:
            picture = cv2.imread(str(installed(path)), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise typer.BadParameter(f"{path} is not there")
            keep(collection, np.asarray(picture, np.uint8))
    for face in np.load(installed(LFW))[:100]:
        keep(FACES, np.rint(255 * face).astype(np.uint8))
    for folder in folders or []:
        for collection, picture in dicom_pictures(folder):
            keep(collection, picture)
    for directory in sorted(out.iterdir()):
        typer.echo(f"{directory.name}: {len(list(directory.iterdir()))}")


if __name__ == "__main__":
    typer.run(main)

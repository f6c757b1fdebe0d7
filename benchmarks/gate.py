"""How much of what is no radiograph of a limb does a bundle's gate let through?

    python benchmarks/gate.py FOLDER NAME=FOLDER ...

Reads every picture under each folder, of which `benchmarks/outside.py` makes some, as scoring reads
it, and prints of how many the gate says that they are familiar, with the 95 % interval of Wilson
(1927). Pictures that a computer made are measured as well: flat, noise, gradients, blobs. With
``--out``, the gate is fitted anew to the training images of ``--bundle``, and written with it and
all these rates into a new bundle:

    python benchmarks/gate.py --data-dir data --out refitted FOLDER NAME=FOLDER ...

With ``--int8``, it is fitted to the same weights in 8-bit integers, as ``fracjax quantize`` does,
and written with these rates into the folder ``int8`` of ``--bundle``.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import engine, finish, gate, quantize
from fracjax.bundle import BUNDLED, read_without_gate
from fracjax.bundle import load as load_bundle
from fracjax.configs import Preprocess
from fracjax.image import Rejected, network_input, read_picture

COLLECTION_SIZE = 80


def generated(size: int) -> NDArray[np.float32]:
    """Make pictures that nobody took: float32 (80, size, size) in 0..1."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    pictures = []
    for part in np.linspace(0, 1, COLLECTION_SIZE // 4):
        angle = 2 * np.pi * part
        gradient = np.cos(angle) * across + np.sin(angle) * down
        noise = rng.normal(0.5, 0.05 + 0.4 * part, (size, size))
        blobs = cv2.GaussianBlur(rng.random((size, size)), (0, 0), 2 + size / 10 * part)
        flat = part + rng.normal(0, 0.01, (size, size))
        pictures += [flat, noise, _stretched(gradient), _stretched(blobs)]
    return np.asarray(np.clip(np.stack(pictures), 0, 1), np.float32)


def pictures(folder: Path, preprocess: Preprocess) -> NDArray[np.float32]:
    """Read the pictures under a folder: float32 (n, size, size). Says which are none."""
    squares = []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(paths, start=1):  # a path may carry a patient's name
        try:
            display = read_picture(path.read_bytes()).display
        except Rejected as rejected:
            typer.echo(f"  {folder.name}, file {number}: {rejected}", err=True)
        else:
            squares.append(network_input(display, preprocess))
    return np.stack(squares)


def _stretched(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((values - values.min()) / np.ptp(values))


def main(
    folders: Annotated[list[str], typer.Argument(help="Folders, or name=folder.")],
    bundle: Annotated[Path, typer.Option(help="Whose gate is measured.")] = BUNDLED,
    data_dir: Annotated[Path, typer.Option(help="Where prepared data sets lie.")] = Path("data"),
    out: Annotated[Path | None, typer.Option(help="Fit anew, and write a bundle here.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise, and fit to that.")] = False,
) -> None:
    """Measure a gate; fit it anew first, if it is to be written."""
    if out is not None and int8:
        sys.exit("--out is of the bundle in float32, and --int8 is written into it; give one")
    is_measured = out is None and not int8
    manifest = load_bundle(bundle).manifest if is_measured else read_without_gate(bundle)[0]
    preprocess = manifest.preprocess
    outside = {"generated: flat, noise, gradients, blobs": generated(preprocess.image_size)}
    for entry in folders:
        name, _, folder = entry.rpartition("=")
        outside[name or Path(folder).name] = pictures(Path(folder), preprocess)
    if is_measured:
        scorer = engine.load(bundle)
        accepted = {
            name: gate.rate(scorer.score(inputs).familiar) for name, inputs in outside.items()
        }
    else:
        if out is None:
            fitted = quantize.quantize(bundle, data_dir=data_dir, outside=outside).gate
        else:
            fitted = finish.fit_gate(bundle, out, data_dir=data_dir, outside=outside).gate
        for name, rate in fitted.false_reject.items():
            typer.echo(f"turned away: {name}: {rate}")
        accepted = fitted.false_accept
    for name, rate in accepted.items():
        typer.echo(f"let through: {name}: {rate}")


if __name__ == "__main__":
    typer.run(main)

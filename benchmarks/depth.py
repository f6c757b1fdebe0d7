"""How far does rounding a picture to fewer bits move its likelihood?

    python benchmarks/depth.py FOLDER --images 300

Takes radiographs at random and halves them, which gives them finer levels than they were stored in.
Prints, for each number of bits, how far the likelihoods of the rounded pictures lie from those of
the pictures as they are.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import engine
from fracjax.bundle import BUNDLED
from fracjax.image import Rejected, network_input, read_picture


def _rounded(picture: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    white = np.float32(2**bits - 1)
    return np.asarray(np.rint(picture * white) / white, np.float32)


def main(
    folder: Path,
    images: Annotated[int, typer.Option(help="How many of its radiographs.")] = 300,
    bundle: Annotated[Path, typer.Option(help="The model.")] = BUNDLED,
) -> None:
    """Print a row for each number of bits."""
    scorer = engine.load(bundle)
    paths = sorted(folder.rglob("*.jpg"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:images]
    pictures = []
    for path in (paths[index] for index in chosen):
        try:
            display = read_picture(path.read_bytes()).display
        except Rejected:
            continue
        halved = cv2.resize(display, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        pictures.append(np.asarray(halved, np.float32))

    def likelihoods(bits: int) -> NDArray[np.float32]:
        rounded = (_rounded(picture, bits) for picture in pictures)
        preprocess = scorer.manifest.preprocess
        return scorer.score(np.stack([network_input(p, preprocess) for p in rounded])).likelihoods

    finest = likelihoods(16)
    for bits in (8, 10, 12):
        moved = np.abs(likelihoods(bits) - finest)
        typer.echo(
            f"{bits:2} bits: median {np.median(moved):.5f}, 99 % within "
            f"{np.percentile(moved, 99):.4f}, at most {moved.max():.4f} (n = {len(moved)})"
        )


if __name__ == "__main__":
    typer.run(main)

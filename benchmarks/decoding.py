"""How long each library takes to decode a radiograph, by transfer syntax.

    python benchmarks/decoding.py --images FOLDER [DICOM_FILE ...]

A radiograph from the folder, enlarged to a detector's size in 12 bits. Libraries take turns, and
figures are medians over the rounds, of processor time, so that a busy machine moves them less.
Beside imagecodecs, which fracjax decodes with, are measured: Pillow at half and a quarter of the
sides, as far as a codestream holds them; the decoders of pydicom that are installed (pylibjpeg,
pyjpegls, GDCM); and all that fracjax does with the file, from its bytes to the network's input,
decoded whole and as small as will do. Of DICOM files that are named, it prints how far that moves
their likelihoods.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydicom import Dataset, dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from fracjax import engine
from fracjax.bundle import BUNDLED
from fracjax.bundle import load as load_bundle
from fracjax.configs import Preprocess
from fracjax.image import Rejected, codecs, network_input, read_picture, reduced
from fracjax.image.render import least_side
from radiographs import BITS, COMPRESSED, dicom, encode, enlarged

PLUGINS = ("pylibjpeg", "pyjpegls", "gdcm", "pillow")
"""Of pydicom, by its names."""

HALF, QUARTER = "Pillow, half", "Pillow, a quarter"
WHOLE, SMALL = "fracjax, whole", "fracjax"


def decoders(dataset: Dataset, syntax: UID, data: bytes) -> dict[str, Callable[[], Any]]:
    """Name all ways to decode a file's pixels."""
    ways: dict[str, Callable[[], Any]] = {}
    if syntax in reduced.SYNTAXES:
        frame, shape = encode(dataset.pixel_array, BITS, syntax), (dataset.Rows, dataset.Columns)
        for levels, name in ((1, HALF), (2, QUARTER)):
            ways[name] = partial(reduced.decode, frame, shape, BITS, levels)
    if syntax in COMPRESSED:
        decoder = get_decoder(syntax)
        for name, plugin in ((codecs.LIBRARY, codecs.PLUGIN), *zip(PLUGINS, PLUGINS, strict=True)):
            decode = partial(decoder.as_array, dataset, decoding_plugin=plugin)
            with suppress(Exception):  # whatever a decoder says that cannot
                decode()
                ways[name] = decode
    preprocess = load_bundle(BUNDLED).manifest.preprocess
    ways[WHOLE] = partial(_input, data, preprocess, None)
    ways[SMALL] = partial(_input, data, preprocess, least_side(preprocess))
    return ways


def _input(data: bytes, preprocess: Preprocess, wanted: int | None) -> None:
    picture = read_picture(data, least_side=wanted)
    network_input(picture.display, preprocess, picture.shape)


def compare(path: Path, scorer: engine.Scorer) -> str:
    """Say how far a file's likelihood is moved where no more is decoded than will do."""
    data, preprocess = path.read_bytes(), scorer.manifest.preprocess
    try:
        whole, smaller = (
            read_picture(data, least_side=wanted) for wanted in (None, least_side(preprocess))
        )
    except Rejected as rejected:
        return f"{path.name}: {rejected}"
    squares = [network_input(each.display, preprocess, each.shape) for each in (whole, smaller)]
    before, after = scorer.score(np.stack(squares)).likelihoods
    height, width = smaller.display.shape
    return f"{path.name}: {height} x {width} of {whole.shape}, {before:.4f} to {after:.4f}"


def main(
    dicom_files: Annotated[list[Path] | None, typer.Argument(help="DICOM radiographs.")] = None,
    *,
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    rows: int = 2880,
    columns: int = 2304,
    rounds: int = 5,
) -> None:
    """Print a row for each transfer syntax."""
    path = max(images.rglob("*.jpg"), key=lambda path: path.stat().st_size)
    stored = enlarged(path, (rows, columns), 0)
    names = (codecs.LIBRARY, HALF, QUARTER, *PLUGINS, WHOLE, SMALL)
    typer.echo(f"{rows} x {columns} pixels of {BITS} bits, ms of processor time")
    typer.echo("| transfer syntax | " + " | ".join(names) + " |")
    typer.echo("|---|" + "---|" * len(names))
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, *COMPRESSED):
        stream = BytesIO()
        dicom(stored, syntax, 1, 1).save_as(stream, enforce_file_format=True)
        data = stream.getvalue()
        ways = decoders(dcmread(BytesIO(data)), syntax, data)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, decode in ways.items():
                begin = time.process_time()
                decode()
                taken[name].append(1000 * (time.process_time() - begin))
        cells = (f"{statistics.median(taken[name]):.0f}" if name in taken else "" for name in names)
        typer.echo(f"| {syntax.name} | " + " | ".join(cells) + " |")
    scorer = engine.load()
    for file in dicom_files or []:
        typer.echo(compare(file, scorer))


if __name__ == "__main__":
    typer.run(main)

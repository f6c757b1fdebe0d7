"""How often sound radiographs are taken for damaged or badly shown, and damaged ones for sound.

    python benchmarks/reading.py FOLDER FILE ...

The first argument is a folder of JPEG radiographs as they were shown; each of the others is an
uncompressed DICOM radiograph, which is compressed, damaged and decoded again. Prints, for the
folder, the least contrast, the most that is all black or white, over the exposed region and over
all, the most that has one grey level, and the files that count as damaged; for each syntax, what
became of the damaged copies.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from fracjax.image import Rejected, codecs, exposure, raster
from radiographs import encode

SUBSTANTIAL = 0.02  # mean difference, as part of the range of grey levels
SKIPPED = 800  # bytes at the start of a codestream, which are headers


def measure_sound(folder: Path) -> None:
    """Print what the checks find in radiographs that are, to all knowledge, sound."""
    rows, alarms = [], []
    half_a_level = 0.5 / 255
    for path in sorted(folder.rglob("*.jpg")):
        data = path.read_bytes()
        try:
            raster.read_raster(data)
        except Rejected as rejected:
            alarms.append(f"  {path.name}: {rejected}")
        try:
            levels = raster.decode_gray(data)[0] / np.float32(255)
        except Rejected:
            continue
        sample = exposure.exposed_sample(levels, None)
        low, high = sample.percentiles(exposure.LOWEST, exposure.HIGHEST)
        clipped = [
            np.average((part < half_a_level) | (part > 1 - half_a_level), weights=counts)
            for part, counts in ((sample.levels, sample.counts), (levels, None))
        ]
        shown = np.rint(sample.levels * 255).astype(np.uint8)
        commonest = np.bincount(shown, sample.counts).max() / sample.counts.sum()
        rows.append((high - low, *clipped, commonest))
    contrast, exposed, everywhere, commonest = np.transpose(rows)
    typer.echo(
        f"{len(rows)} radiographs: contrast at least {contrast.min():.3f}; clipped at most "
        f"{exposed.max():.3f} of the exposed region and {everywhere.max():.3f} of all; one level "
        f"at most {commonest.max():.3f} of the exposed region; {len(alarms)} rejected"
    )
    typer.echo("\n".join(alarms))


def measure_damaged(frame: bytes, syntax: str, copies: int, seed: int) -> Counter[str]:
    """Change one to four bytes of a codestream, many times over, and count the outcomes."""
    rng = np.random.default_rng(seed)
    sound = codecs.decode(frame, syntax).astype(np.float64)
    outcomes: Counter[str] = Counter()
    for _ in range(copies):
        damaged = bytearray(frame)
        for _ in range(rng.integers(1, 5)):
            damaged[rng.integers(SKIPPED, len(frame) - 10)] = rng.integers(256)
        try:
            samples = codecs.decode(bytes(damaged), syntax)
        except Exception:  # noqa: BLE001 - the decoder says so itself, as it should
            outcomes["error of the decoder"] += 1
            continue
        change = np.abs(samples - sound).mean() / np.ptp(sound)
        size = "substantial" if change > SUBSTANTIAL else "slight" if change else "no"
        found = codecs.fault(bytes(damaged), syntax, samples)
        outcomes[f"{size} change, {'found' if found else 'not found'}"] += 1
    return outcomes


def main(
    folder: Path,
    dicom: Annotated[list[Path], typer.Argument()],
    copies: Annotated[int, typer.Option(help="Damaged copies of each file and syntax.")] = 60,
) -> None:
    """Measure both."""
    measure_sound(folder)
    for syntax in (
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
    ):
        total: Counter[str] = Counter()
        for seed, path in enumerate(dicom):
            dataset = dcmread(path)
            stored = dataset.pixel_array.astype(np.uint16)
            frame = encode(stored, dataset.BitsStored, syntax)
            total += measure_damaged(frame, syntax, copies, seed)
        typer.echo(f"{syntax.name}:")
        for name, count in sorted(total.items()):
            typer.echo(f"  {count:4} {name}")


if __name__ == "__main__":
    typer.run(main)

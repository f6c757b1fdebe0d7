"""How fast ``fracjax score-dir`` scores an export, against pydicom and PyTorch.

    python benchmarks/scoring.py --images FOLDER

Makes exports of radiographs from the folder, enlarged to a detector's size in 12 bits, two to a
study: of several transfer syntaxes, of JPEG 2000 alone, and of raw pixels alone. The whole commands
take turns, from their start to their end, on one core and on two; figures are medians over the
rounds, and a ratio is the median of the rounds' ratios. The peer is ``scoring_torch.py``; it
computes in float32, as fracjax does, or in bfloat16 (``--peer-precision``); fracjax with another
model computes as that one does (``--bundle fracatlas/int8``). The peer decodes all pixels,
and fracjax of JPEG 2000 as many as the network looks at (docs/performance.md).

Beside them stand the parts, each measured alone in one process: reading (from a file to the
network's input) and the network. On cores that all parts share, the most that can be reached is
one image in the sum of both, times the cores; what the job reaches of it counts the time after its
start, which an export of a single study measures.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from fracjax import engine
from fracjax.bundle import BUNDLED
from fracjax.image import network_input, read_picture
from fracjax.image.render import least_side
from radiographs import dicom, enlarged

HERE = Path(__file__).parent
BATCH = 16

EXPORTS: dict[str, tuple[UID, ...]] = {
    "mixed": (
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
        JPEGBaseline8Bit,
    ),
    "JPEG 2000": (JPEG2000Lossless,),
    "raw": (ExplicitVRLittleEndian,),
}
"""The transfer syntaxes of each export, which its images take in turns."""

TARGETS = {"mixed": 3.0, "JPEG 2000": 5.0, "raw": 1.2}
"""Times the studies a minute of the peer, on two cores."""

PER_STUDY = 2


def write_export(root: Path, images: Path, syntaxes: Sequence[UID], count: int) -> None:
    """Write ``count`` images of FOLDER as DICOM files without extensions."""
    paths = sorted(images.rglob("*.jpg"))
    for number, index in enumerate(np.random.default_rng(0).permutation(len(paths))[:count]):
        shape = (2880, 2304) if number % 2 else (2304, 2880)
        stored = enlarged(paths[index], shape, number)
        study = number // PER_STUDY
        folder = root / f"ST{study:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        made = dicom(stored, syntaxes[number % len(syntaxes)], study + 1, number + 1)
        made.save_as(folder / f"IM{number:06d}", enforce_file_format=True)


def seconds(command: Sequence[str], cores: Sequence[int]) -> float:
    """Run a command on some cores, and give the seconds that it takes."""
    begin = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        sys.exit(f"{command[1:4]} failed: {done.stderr[-500:]}")
    return time.monotonic() - begin


def job(root: Path, out: Path, cores: int, bundle: Path = BUNDLED) -> list[str]:
    """Give the command that scores an export."""
    for path in out.parent.glob(f"{out.stem}.*"):
        path.unlink()
    return [
        *(sys.executable, "-m", "fracjax", "score-dir", str(root), "--out", str(out)),
        *("--bundle", str(bundle)),
        *("--workers", str(cores), "--batch-size", str(BATCH)),
    ]


def peer(root: Path, out: Path, cores: int, size: int, precision: str) -> list[str]:
    """Give the command of the peer."""
    return [
        *(sys.executable, str(HERE / "scoring_torch.py"), str(root), str(out)),
        *(str(size), str(cores), precision),
    ]


def parts(root: Path, scorer: engine.Scorer) -> tuple[float, float]:
    """Give the seconds a core takes to read an image, and to score it, each alone."""
    preprocess = scorer.manifest.preprocess
    paths = [path for path in root.rglob("*") if path.is_file()]
    begin = time.process_time()
    squares = []
    for path in paths:
        picture = read_picture(path.read_bytes(), least_side=least_side(preprocess))
        squares.append(network_input(picture.display, preprocess, picture.shape))
    reading = (time.process_time() - begin) / len(paths)
    inputs = np.stack(squares)
    scorer.score(inputs[:BATCH])
    begin = time.process_time()
    scorer.score(inputs)
    return reading, (time.process_time() - begin) / len(inputs)


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    count: Annotated[int, typer.Option(help="Images of an export.")] = 96,
    rounds: int = 3,
    only: Annotated[str, typer.Option(help="Exports, of mixed, JPEG 2000 and raw.")] = "",
    on: Annotated[str, typer.Option(help="Numbers of cores, of 1 and 2.")] = "1, 2",
    bundle: Annotated[Path, typer.Option(help="The model.")] = BUNDLED,
    peer_precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Print a row for each export and number of cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    scorer = engine.load(bundle, batch_size=BATCH)
    size = scorer.manifest.preprocess.image_size
    chosen = [name.strip() for name in only.split(",")] if only else list(EXPORTS)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        work = Path(folder)
        write_export(work / "one", images, EXPORTS["raw"], PER_STUDY)
        for name in chosen:
            root = work / name
            write_export(root, images, EXPORTS[name], count)
            reading, computing = parts(root, scorer)
            for used in [int(number) for number in on.split(",") if int(number) <= len(cores)]:
                some, out = cores[:used], work / "worklist.parquet"
                ours, theirs, started = [], [], []
                for _ in range(rounds):
                    started.append(seconds(job(work / "one", out, used, bundle), some))
                    ours.append(seconds(job(root, out, used, bundle), some))
                    theirs.append(
                        seconds(peer(root, work / "peer.csv", used, size, peer_precision), some)
                    )
                after = statistics.median(ours) - statistics.median(started)
                rows.append(
                    {
                        "export": name,
                        "cores": used,
                        "read_ms": 1000 * reading,
                        "network_ms": 1000 * computing,
                        "fracjax": 60 * count / PER_STUDY / statistics.median(ours),
                        "peer": 60 * count / PER_STUDY / statistics.median(theirs),
                        "ratio": statistics.median(
                            other / one for one, other in zip(ours, theirs, strict=True)
                        ),
                        "reached": (count - PER_STUDY) / after * (reading + computing) / used,
                    }
                )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{time.strftime('%Y-%m-%d')}, {scorer.engine}; the peer in {peer_precision}")
    typer.echo(f"{count} images, {rounds} rounds")
    typer.echo(
        "| export | cores | reading, ms | network, ms | fracjax, studies/min | peer, studies/min "
        "| ratio | of what the parts allow |"
    )
    typer.echo("|---|---|---|---|---|---|---|---|")
    for row in rows:
        typer.echo(
            f"| {row['export']} | {row['cores']} | {row['read_ms']:.0f} | {row['network_ms']:.0f} "
            f"| {row['fracjax']:.1f} | {row['peer']:.1f} | {row['ratio']:.2f} "
            f"| {100 * row['reached']:.0f} % |"
        )
    for row in rows:
        if row["cores"] == 2:
            target = TARGETS[row["export"]]
            verdict = "met" if row["ratio"] >= target else "missed"
            typer.echo(f"{row['export']}: at least {target:g} times the peer: {verdict}")


if __name__ == "__main__":
    typer.run(main)

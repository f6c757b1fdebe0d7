"""What the bundled network gains and moves in 8-bit integers, under OpenVINO on a CPU.

    python benchmarks/int8.py --data-dir ~/tfds

Compares `fracatlas/int8`, which `fracjax quantize` made, with `fracatlas`. The two take turns;
speed is a median over the rounds. Of the images set apart to choose (`data.select`), and of the
validation splits, prints the AUROC of either, how far likelihoods lie apart, and how many images
are called otherwise, each by its own operating points. Then the same integers with the instructions
of older processors: how far likelihoods lie from those of this one.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from fracjax import data, evaluate, finish
from fracjax.bundle import BUNDLED, INT8
from fracjax.engine import Scorer, load
from fracjax.forward import openvino, probes
from fracjax.integers import moved
from fracjax.notice import NOTICE

COPIES = 24
"""Of the known radiographs, in one call."""

OLDER = ("AVX512_CORE", "AVX2", "SSE41")
"""Values of ONEDNN_MAX_CPU_ISA: with none of these is there a product of integers in one step."""

WORK = """
import sys
import numpy as np
import fracjax
scorer = fracjax.load(sys.argv[1], engine="openvino")
np.save(sys.argv[3], scorer.score(np.load(sys.argv[2])).likelihoods)
"""


def seconds(scorer: Scorer) -> float:
    """Give the seconds a picture takes, of many at once."""
    inputs = np.concatenate([probes.pictures(scorer.manifest.preprocess)] * COPIES)
    begin = time.monotonic()
    scorer.score(inputs)
    return (time.monotonic() - begin) / len(inputs)


def compare(title: str, images: data.Radiographs, exact: Scorer, integers: Scorer) -> None:
    """Print how far the two models lie apart."""
    labels = [fact.label for fact in images.facts]
    one, other = (evaluate.predict(scorer, images) for scorer in (exact, integers))
    before, after = (roc_auc_score(labels, each.likelihoods) for each in (one, other))
    typer.echo(f"\n{title}: {len(images)} images, {sum(labels)} positive")
    typer.echo(f"  AUROC {before:.4f}, in integers {after:.4f} ({after - before:+.4f})")
    typer.echo(f"  likelihoods differ {moved(other.likelihoods, one.likelihoods)}")
    for name in exact.manifest.operating_points:
        called = [
            scores.likelihoods >= scorer.manifest.operating_points[name].threshold
            for scorer, scores in ((exact, one), (integers, other))
        ]
        typer.echo(f"  called otherwise at {name}: {np.mean(called[0] != called[1]):.3f}")
    typer.echo(
        f"  familiar to the gate: {one.familiar.mean():.3f}, in integers "
        f"{other.familiar.mean():.3f}"
    )


def on_older_processors(bundle: Path, scorer: Scorer, images: data.Radiographs) -> None:
    """Print what the integers say without newer instructions."""
    (inputs,) = data.inputs(images, scorer.manifest.preprocess, batch_size=len(images))
    here = scorer.score(inputs).likelihoods
    with TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npy", Path(folder) / "found.npy"
        np.save(given, inputs)
        for instructions in OLDER:
            environment = os.environ | {
                openvino.CACHE_VARIABLE: f"{folder}/{instructions}",
                "ONEDNN_MAX_CPU_ISA": instructions,
            }
            command = [sys.executable, "-c", WORK, str(bundle), str(given), str(found)]
            subprocess.run(command, env=environment, check=True)  # noqa: S603 - our own interpreter
            typer.echo(f"{instructions}: likelihoods differ {moved(np.load(found), here)}")


def main(
    data_dir: Annotated[Path, typer.Option()] = Path("data"),
    bundle: Annotated[Path, typer.Option(help="The model in float32.")] = BUNDLED,
    rounds: int = 5,
) -> None:
    """Measure and compare."""
    exact, integers = (load(path, engine="openvino") for path in (bundle, bundle / INT8))
    learned = finish.training_images(exact.manifest, data_dir.expanduser())
    valid = finish.validation_images(exact.manifest, data_dir.expanduser())
    typer.echo(NOTICE)
    ratios = [seconds(exact) / seconds(integers) for _ in range(rounds)]
    typer.echo(
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores: "
        f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for title, images in (("set apart to choose", learned[1]), ("validation", valid)):
        if len(images):
            compare(title, images, exact, integers)
    typer.echo("")
    on_older_processors(bundle / INT8, integers, valid)


if __name__ == "__main__":
    typer.run(main)

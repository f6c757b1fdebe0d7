"""How fast each engine scores, how long it takes to start, and how far their likelihoods differ.

    python benchmarks/engines.py --images FOLDER

Engines take turns, each in a process of its own; figures are medians over the rounds. The first
start of an engine compiles into an empty cache, every other finds what that has left. Of
radiographs at random from the folder, prints how far OpenVINO's likelihoods and distances lie from
XLA's, and how many pictures the gate judges otherwise.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import engine, gate
from fracjax.bundle import BUNDLED
from fracjax.bundle import load as load_bundle
from fracjax.engine import Scores
from fracjax.forward import EngineName, openvino
from fracjax.forward.xla import XlaForward, network_of
from fracjax.image import Rejected, network_input, read_picture
from fracjax.models import Network

ENGINES: tuple[EngineName, EngineName] = ("xla", "openvino")
COPIES = 16
"""Of the known radiographs, in one call."""

WORK = """
import json, sys, time
begin = time.monotonic()
import fracjax
scorer = fracjax.load(sys.argv[1], engine=sys.argv[2])
from fracjax.forward import probes
import numpy as np
pictures = probes.pictures(scorer.manifest.preprocess)
scorer.score(pictures[:1])
started = time.monotonic() - begin
inputs = np.concatenate([pictures] * int(sys.argv[3]))
scorer.score(inputs)
begin = time.monotonic()
scorer.score(inputs)
seconds = time.monotonic() - begin
print(json.dumps({"started": started, "rate": len(inputs) / seconds, "engine": str(scorer.engine)}))
"""


def _run(bundle: Path, name: str, cache: str) -> dict[str, Any]:
    environment = os.environ | {
        openvino.CACHE_VARIABLE: cache,
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/xla",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", WORK, str(bundle), name, str(COPIES)]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command, env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _read(bundle: Path, folder: Path, count: int) -> NDArray[np.float32]:
    paths = sorted(folder.rglob("*.jpg"))
    preprocess = load_bundle(bundle).manifest.preprocess
    inputs = []
    for index in np.random.default_rng(0).permutation(len(paths))[:count]:
        try:
            picture = read_picture(paths[index].read_bytes())
        except Rejected:
            continue
        inputs.append(network_input(picture.display, preprocess))
    return np.stack(inputs)


def _in_bfloat16(bundle: Path, inputs: NDArray[np.float32]) -> tuple[Any, Any, Any]:
    """Give likelihoods, distances and familiarity where convolutions compute in bfloat16."""
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    outputs = network_of(manifest).outputs
    network = Network(manifest.model, outputs=outputs, dtype=jnp.bfloat16)
    forward = XlaForward(network, manifest.preprocess, loaded.variables, 8)
    likelihoods, features = forward(inputs)
    distances = gate.distances(loaded.gate, features)
    is_negative = gate.are_negatives(loaded.gate, features)
    return likelihoods[:, 0], distances, (distances <= manifest.gate.threshold) & ~is_negative


def _compare(name: str, exact: Scores, likelihoods: Any, distances: Any, familiar: Any) -> str:
    moved = np.abs(exact.likelihoods - likelihoods)
    distance = np.abs(exact.distances - distances) / exact.distances
    return (
        f"{name}: likelihoods differ by {moved.max():.1e} at most, median {np.median(moved):.1e}; "
        f"distances by {distance.max():.1e} of theirs; the gate judges "
        f"{int((exact.familiar != familiar).sum())} otherwise (n = {len(moved)})"
    )


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    count: Annotated[int, typer.Option(help="How many of them.")] = 200,
    rounds: int = 5,
    bundle: Annotated[Path, typer.Option(help="The model.")] = BUNDLED,
    bfloat16: Annotated[
        bool, typer.Option(help="Also what that moves, by XLA, which needs no such processor.")
    ] = False,
) -> None:
    """Print a row for each engine, and how far they differ."""
    with TemporaryDirectory() as cache:
        first = {name: _run(bundle, name, cache) for name in ENGINES}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
        for _ in range(rounds):
            for name in ENGINES:
                found[name].append(_run(bundle, name, cache))
    typer.echo(f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores")
    for name in ENGINES:
        rate, started = (
            statistics.median(each[what] for each in found[name]) for what in ("rate", "started")
        )
        typer.echo(
            f"{first[name]['engine']}: {rate:.1f} images/s, first score after {started:.1f} s, "
            f"the first time {first[name]['started']:.1f} s"
        )
    ratios = [other["rate"] / one["rate"] for one, other in zip(*found.values(), strict=True)]
    typer.echo(
        f"OpenVINO by XLA: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    inputs = _read(bundle, images, count)
    exact, other = (engine.load(bundle, engine=name).score(inputs) for name in ENGINES)
    typer.echo(_compare("OpenVINO", exact, other.likelihoods, other.distances, other.familiar))
    if bfloat16:
        typer.echo(_compare("XLA in bfloat16", exact, *_in_bfloat16(bundle, inputs)))


if __name__ == "__main__":
    typer.run(main)

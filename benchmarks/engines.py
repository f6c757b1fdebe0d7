"""How fast each engine scores, how long it takes to start, and how far their likelihoods differ.

    python benchmarks/engines.py --images FOLDER

Engines take turns, each in a process of its own; figures are medians over the rounds. The first
start of an engine compiles into an empty cache, every other finds what that has left. Of
radiographs at random from the folder, prints how far OpenVINO's likelihoods and distances lie from
XLA's, and how many pictures the gate judges otherwise. ``--bfloat16`` adds what OpenVINO gains and
moves by that format, which no engine here uses: one picture at a time, one pass in each format.
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

import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import engine
from fracjax.bundle import BUNDLED
from fracjax.bundle import load as load_bundle
from fracjax.export.network import onnx_of
from fracjax.forward import EngineName, openvino
from fracjax.forward.quiet_openvino import openvino as ov
from fracjax.image import Rejected, network_input, read_picture

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


def _compare(name: str, exact: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    moved = np.abs(exact - other)
    return (
        f"{name}: likelihoods differ by {moved.max():.1e} at most, in 95 of 100 by "
        f"{np.quantile(moved, 0.95):.1e} at most, median {np.median(moved):.1e} (n = {len(moved)})"
    )


def _in_bfloat16(bundle: Path, inputs: NDArray[np.float32], exact: NDArray[np.float32]) -> None:
    """Print what OpenVINO gains and loses by a number format that no engine here uses."""
    core = ov.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        typer.echo("bfloat16: not a format of this processor")
        return
    model = core.read_model(onnx_of(load_bundle(bundle)).SerializeToString())
    model.reshape([1, *inputs.shape[1:]])
    taken, likelihoods = {}, np.empty(0, np.float32)
    for hint in ("f32", "bf16"):
        request = core.compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": hint}
        ).create_infer_request()
        request.infer({0: inputs[:1]})
        begin = time.monotonic()
        answers = [next(iter(request.infer({0: x[None]}).values())).copy() for x in inputs]
        taken[hint] = time.monotonic() - begin
        likelihoods = np.concatenate(answers)[:, 0]
    typer.echo(f"openvino in bfloat16: {taken['f32'] / taken['bf16']:.2f} times as fast")
    typer.echo(_compare("openvino in bfloat16", exact, likelihoods))


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    count: Annotated[int, typer.Option(help="How many of them.")] = 200,
    rounds: int = 5,
    bundle: Annotated[Path, typer.Option(help="The model.")] = BUNDLED,
    bfloat16: Annotated[bool, typer.Option(help="Also what that would move.")] = False,
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
    inputs = _read(bundle, images, count)
    exact, other = (engine.load(bundle, engine=name).score(inputs) for name in ENGINES)
    pairs = zip(*found.values(), strict=True)
    ratios = [openvinos["rate"] / xlas["rate"] for xlas, openvinos in pairs]
    typer.echo(
        f"openvino by xla: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )
    typer.echo(_compare("openvino", exact.likelihoods, other.likelihoods))
    distances = np.abs(exact.distances - other.distances) / exact.distances
    typer.echo(
        f"distances differ by {distances.max():.1e} of theirs at most; the gate judges "
        f"{int((exact.familiar != other.familiar).sum())} otherwise"
    )
    if bfloat16:
        _in_bfloat16(bundle, inputs, exact.likelihoods)


if __name__ == "__main__":
    typer.run(main)

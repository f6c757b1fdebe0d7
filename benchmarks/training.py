"""Images a second that training ResNet-50 learns from, on one device, against PyTorch.

    python benchmarks/training.py --data-dir DIR

Both train the v1.5 network with one output, with the same batch size, optimizer, clipping of the
gradients, augmentation and number format: ours by :func:`fracjax.step.train_step`, as ``fracjax
train`` runs it; PyTorch compiled, channels last, with autocast and a fused optimizer. Each
measurement is a process of its own, so that neither holds memory of the device while the other
runs, and they take turns. Compilation and the first steps are not counted. Prints a Markdown table
of medians over the rounds; the ratio is the median of the rounds' ratios.

With ``--data-dir``, FracAtlas as ``fracjax prepare`` left it, images are also read, decoded and
rendered, by the same functions on either side: ours in threads, PyTorch's in a ``DataLoader``'s
processes. PyTorch may be that of another interpreter (``--torch-python``), and without it ours is
measured alone.

A tiny run on a CPU, whose ratio says nothing of a GPU:

    python benchmarks/training.py --size 64 --batch 8 --rounds 2 --steps 4 --precision float32
"""

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).parent

TARGET = 1.2
"""Times the images a second of PyTorch."""

PEAKS = {"H100 80GB HBM3": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 TFLOP/s by part of the device's name, from NVIDIA's data sheets (H100: SXM)."""

MULTIPLY_ADDS = 4.09e9
"""Of ResNet-50 v1.5 for one picture of 224 by 224 (docs/weights.md)."""

WORK = {
    "plain": "one batch, on the device",
    "augmented": "one batch, on the device, augmented",
    "resident": "all images on the device, augmented",
    "streamed": "read from disk, augmented",
    "reading": "reading from disk alone",
}
"""What is measured, by the name that the processes give it."""

Rates = dict[str, float]
"""Images a second by a key of :data:`WORK`."""


class Algorithm(StrEnum):
    """An optimizer."""

    ADAMW = "adamw"
    SGD = "sgd"


class Precision(StrEnum):
    """Number format of convolutions and matrix products."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def flops(size: int) -> float:
    """Count the operations of training on one picture of size by size.

    A multiply-add is two operations, and the gradients of inputs and of weights take as many as
    the network itself. Augmentation and the optimizer are not counted.
    """
    return 3 * 2 * MULTIPLY_ADDS * (size / 224) ** 2


def peak_of(device: str) -> float | None:
    """Give a device's bfloat16 TFLOP/s, where they are known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def table(
    size: int, ours: Sequence[Rates], theirs: Sequence[Rates], peak: float | None
) -> list[str]:
    """Write the rows of the table for one size, of rounds that belong together."""
    rows = []
    for key, what in WORK.items():
        cells = [str(size), what]
        medians = [_median(rounds, key) for rounds in (ours, theirs)]
        if medians[0] is None:
            continue
        cells += ["" if median is None else f"{median:.1f}" for median in medians]
        ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=False) if key in b]
        cells.append(
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            if ratios
            else ""
        )
        shares = [
            "" if median is None or peak is None else f"{median * flops(size) / peak / 1e10:.1f} %"
            for median in medians
        ]
        cells += ["", ""] if key == "reading" else shares
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def verdict(size: int, ours: Sequence[Rates], theirs: Sequence[Rates]) -> list[str]:
    """Say for each kind of training that both did whether the target is met."""
    return [
        f"- {size} px, {WORK[key]}: {'met' if ratio >= TARGET else 'NOT met'} ({ratio:.2f})"
        for key in WORK
        if key != "reading" and all(key in rates for rates in (*ours, *theirs))
        for ratio in [statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))]
    ]


def _median(rounds: Sequence[Rates], key: str) -> float | None:
    values = [rates[key] for rates in rounds if key in rates]
    return statistics.median(values) if values else None


def _measure(python: str, script: str, settings: Mapping[str, Any], caches: Path) -> Any:
    """Run one measurement in a process of its own; what it has printed, from JSON."""
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "torch"),
        "PYTHONPATH": os.pathsep.join(
            [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    done = subprocess.run(  # noqa: S603
        [python, str(HERE / script), json.dumps(settings)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        typer.echo(f"{script} has failed, as it says above", err=True)
        raise typer.Exit(1)
    return json.loads(done.stdout.splitlines()[-1])


def _has_torch(python: str) -> bool:
    try:
        found = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)  # noqa: S603
    except OSError:
        return False
    return found.returncode == 0


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return lines[0] if lines else "none"


def main(
    size: Annotated[list[int], typer.Option(help="Side of the input, pixels; any number.")] = [  # noqa: B006
        224,
        320,
    ],
    batch: Annotated[int, typer.Option(help="Images a step.")] = 256,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 40,
    rounds: Annotated[int, typer.Option(help="Measurements of each, in turns.")] = 3,
    algorithm: Annotated[Algorithm, typer.Option(help="Optimizer.")] = Algorithm.ADAMW,
    precision: Annotated[Precision, typer.Option(help="Of convolutions.")] = Precision.BFLOAT16,
    data_dir: Annotated[Path | None, typer.Option(help="Where FracAtlas lies, prepared.")] = None,
    torch_python: Annotated[str, typer.Option(help="Interpreter with PyTorch.")] = sys.executable,
    torch_compile: Annotated[
        str, typer.Option(help="Mode of torch.compile, or 'off'.")
    ] = "default",
    peak_tflops: Annotated[
        float | None, typer.Option(help="bfloat16 peak of a device that is not known here.")
    ] = None,
) -> None:
    """Measure both in turns, and print the table."""
    scripts = {"training_fracjax.py": sys.executable, "training_torch.py": torch_python}
    if not _has_torch(torch_python):
        typer.echo(
            f"{torch_python} has no PyTorch, so fracjax is measured alone; give --torch-python",
            err=True,
        )
        del scripts["training_torch.py"]
    workers = min(16, os.cpu_count() or 1)  # as many as fracjax.data.prefetched has
    settings = {
        "batch": batch,
        "steps": steps,
        "algorithm": algorithm,
        "precision": precision,
        "data_dir": None if data_dir is None else str(data_dir.expanduser().absolute()),
        "compile": torch_compile,
        "warm_up": 5,
        "workers": workers,
        # Every worker makes whole batches and has up to two ready. Those made before the clock
        # started must not be counted, and the workers come in waves, which must be counted whole.
        "ahead": 2 * workers,
        "read_steps": max(2, math.ceil(steps / workers)) * workers,
    }
    rows, verdicts, software, device = [], [], [], ""
    with tempfile.TemporaryDirectory() as caches:
        for side in size:
            measured: dict[str, list[Rates]] = {
                "training_fracjax.py": [],
                "training_torch.py": [],
            }
            for _ in range(rounds):
                for script, python in scripts.items():
                    told = _measure(python, script, settings | {"size": side}, Path(caches))
                    measured[script].append(told["rates"])
                    if told["software"] not in software:
                        software.append(told["software"])
                    device = device or told["device"]
            both = measured["training_fracjax.py"], measured["training_torch.py"]
            peak = peak_tflops or peak_of(device)
            rows += table(side, *both, peak if precision is Precision.BFLOAT16 else None)
            verdicts += verdict(side, *both) if both[1] else []
    typer.echo(
        f"{datetime.now(UTC).date()}, {device}, driver {_driver()}, {os.cpu_count()} CPU cores; "
        f"{'; '.join(software)}; batch {batch}, {algorithm}, {precision}, medians of {rounds} "
        f"rounds of {steps} steps ({settings['read_steps']} where images are read)\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        "| px | what | fracjax, images/s | PyTorch, images/s | ratio (lowest to highest) "
        "| fracjax, of the peak | PyTorch, of the peak |\n"
        "|---|---|---|---|---|---|---|"
    )
    typer.echo("\n".join(rows))
    typer.echo(f"\nTarget, at least {TARGET} times PyTorch:\n")
    typer.echo("\n".join(verdicts) or "- not measured")


if __name__ == "__main__":
    typer.run(main)

"""A training run killed at random moments, again and again, against one that nothing disturbs.

    python benchmarks/kills.py --data-dir DIR --out runs/kills --set data.train=fold_1 \
        --set optimizer.epochs=2

Killed by SIGKILL after a time that is drawn evenly from nothing to what the undisturbed run takes,
the same command is given again, and so on. Runs that come to their end are compared with the
undisturbed one, to the bit. The exit code is 1 if one of them differs.
"""

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fracjax import bundle, record
from fracjax.finish import PREDICTIONS_NAME
from fracjax.record.journal import METRICS_NAME

COMPARED = (
    f"bundle/{bundle.WEIGHTS_NAME}",
    f"bundle/{bundle.GATE_NAME}",
    METRICS_NAME,
    PREDICTIONS_NAME,
)


def run(command: list[str], log: Path, seconds: float | None = None) -> bool:
    """Run a command, and kill it after so many seconds; tells whether it ended by itself."""
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as job:  # noqa: S603
        try:
            code = job.wait(seconds)
        except subprocess.TimeoutExpired:
            job.kill()
            return False
    if code:
        sys.exit(f"training ended with {code}; {log} says why")
    return True


def place(said: str) -> str:
    """Tell how far a process had come, by what it had said."""
    if "fitting the gate" in said:
        return "after its last step"
    return "among its steps" if "step " in said else "before its first line"


def differing(workdir: Path, undisturbed: Path) -> list[str]:
    """Name the files that are not the same to the bit."""
    return [
        name
        for name in COMPARED
        if (workdir / name).read_bytes() != (undisturbed / name).read_bytes()
    ]


def main(
    data_dir: Annotated[Path, typer.Option(help="Where the data set lies, prepared.")],
    out: Annotated[Path, typer.Option(help="Where the runs go; it must not exist.")],
    config: Annotated[str, typer.Option(help="Recipe.")] = "small_cnn",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value.")
    ] = None,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 5,
    kills: Annotated[int, typer.Option(help="How often, of each kind.")] = 20,
    parallel: Annotated[str, typer.Option(help="Kinds, with commas.")] = "jit,pmap",
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill, start again, compare, and say how often and where."""
    out.mkdir(parents=True)
    moments = random.Random(seed)  # noqa: S311 - nothing is secret
    differs = False
    for kind in parallel.split(","):
        command = [sys.executable, "-m", "fracjax", "train", "--config", config]
        command += ["--data-dir", str(data_dir), "--save-every", str(save_every)]
        command += ["--parallel", kind]
        for setting in settings or []:
            command += ["--set", setting]
        log, undisturbed, workdir = (out / f"{kind}.{name}" for name in ("log", "whole", "killed"))
        begin = time.monotonic()
        run([*command, "--workdir", str(undisturbed)], log)
        took = time.monotonic() - begin
        last = int(record.read(undisturbed)[-1]["step"])
        places: Counter[str] = Counter()
        ended, is_killed = 0, False
        while True:
            limit = moments.uniform(0, took) if places.total() < kills else None
            said = log.stat().st_size
            if not run([*command, "--workdir", str(workdir)], log, limit):
                places[place(log.read_bytes()[said:].decode())] += 1
                is_killed = True
                continue
            ended += is_killed
            is_killed = False
            for name in differing(workdir, undisturbed):
                typer.echo(f"{kind}: {name} of run {ended} differs")
                differs = True
            shutil.rmtree(workdir)
            if places.total() >= kills:
                break
        where = ", ".join(f"{count} {name}" for name, count in places.items())
        typer.echo(
            f"{kind}: {places.total()} kills ({where}) in {ended} runs of {last} steps and "
            f"{took:.0f} s"
        )
    if differs:
        raise typer.Exit(1)
    typer.echo(f"all runs end with the same bits in {', '.join(COMPARED)}")


if __name__ == "__main__":
    typer.run(main)

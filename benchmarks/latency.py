"""How ``fracjax score-dir`` stands a file server that takes long to open a file.

    python benchmarks/latency.py --images FOLDER

Makes an export of small files, one in ten a radiograph and the others text, and scores it as it
lies on this disk, and with every ``os.open`` below it delayed. Prints the seconds after the start
(which an export of one study measures), and what the delays would take one after another: each file
is opened when it is found, and when it is read.
"""

import os
import statistics
import sys
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from scoring import job, seconds

WORKERS = 2

DELAYED = """
import os, time
_open, _root, _seconds = os.open, os.environ["DELAYED_ROOT"], float(os.environ["DELAY"])

def delayed(path, *arguments, **options):
    if os.fsdecode(path).startswith(_root):
        time.sleep(_seconds)
    return _open(path, *arguments, **options)

os.open = delayed
"""
"""Python imports a module of this name at its start, in every process of the job."""


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    files: int = 4000,
    milliseconds: Annotated[float, typer.Option(help="That a file takes to open.")] = 20,
    rounds: int = 3,
) -> None:
    """Print a row without delays, and one with."""
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    with TemporaryDirectory() as folder:
        root, one, hook = (Path(folder) / name for name in ("export", "one", "hook"))
        _write(root, images, files)
        _write(one, images, 2)
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(DELAYED)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")])
        os.environ["DELAYED_ROOT"] = folder
        out = Path(folder) / "worklist.parquet"
        typer.echo("ms to open  seconds  one after another")
        for delay in (0.0, milliseconds):
            os.environ["DELAY"] = str(delay / 1000)
            after = []
            for _ in range(rounds):
                started = seconds(job(one, out, WORKERS), cores)
                after.append(seconds(job(root, out, WORKERS), cores) - started)
            alone = 2 * files * delay / 1000
            typer.echo(f"{delay:10.0f} {statistics.median(after):8.1f} {alone:18.1f}")


def _write(root: Path, images: Path, files: int) -> None:
    pictures = [path.read_bytes() for path in islice(sorted(images.rglob("*.jpg")), 100)]
    if not pictures:
        sys.exit(f"{images} holds no .jpg file")
    for number in range(files):
        folder = root / f"{number // 100:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 10 == 0:
            (folder / f"IM{number:06d}").write_bytes(pictures[number // 10 % len(pictures)])
        else:
            (folder / f"{number:06d}.txt").write_text(f"no image {number}")


if __name__ == "__main__":
    typer.run(main)

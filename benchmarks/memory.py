"""How much memory `fracjax score-dir` takes for exports of growing size.

    python benchmarks/memory.py 1000 100000

Makes exports of small files, one in a hundred an image of its own, one in ten a copy of one of ten
images, the others text, and prints the peak resident memory of the job's own process for each. It
should not grow with the number of files.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import typer
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

SIDE = 64


def main(sizes: list[int], bundle: str | None = None) -> None:
    """Print a row for each number of files."""
    typer.echo(f"{'files':>8} {'peak MiB':>9} {'state KiB':>10} {'seconds':>8}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            typer.echo(_measure(Path(folder), size, bundle))


def _measure(folder: Path, size: int, bundle: str | None) -> str:
    _write_export(folder / "export", size)
    out = folder / "worklist.parquet"
    job = [sys.executable, "-m", "fracjax", "score-dir", str(folder / "export"), "--out", str(out)]
    job += ["--bundle", bundle] if bundle else []
    program = (
        "import resource, subprocess, sys, time; began = time.monotonic();"
        f"done = subprocess.run({job!r}, stdout=subprocess.DEVNULL);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_maxrss, time.monotonic() - began); sys.exit(done.returncode)"
    )
    # The largest of the job's processes: the job itself, which holds the model, or a worker.
    done = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.PIPE)  # noqa: S603
    if done.returncode not in (0, 3):  # 3: the model that ships turns such pictures away
        sys.exit(done.returncode)
    kibibytes, seconds = map(float, done.stdout.split())
    state = out.with_suffix(".state").stat().st_size
    return f"{size:8d} {kibibytes / 1024:9.0f} {state / 1024:10.0f} {seconds:8.0f}"


def _write_export(root: Path, size: int) -> None:
    for number in range(size):
        folder = root / f"{number // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 100 == 0:
            _write_image(folder / f"IM{number}", number)
        elif number % 10 == 1:
            _write_image(folder / f"IM{number}", -1 - number // 10 % 10)
        else:
            (folder / f"{number}.txt").write_text("no image")


def _write_image(path: Path, number: int) -> None:
    rng = np.random.default_rng(number + 100)
    coarse = rng.random((4, 4), np.float32)
    smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.3.{number + 100}"
    dataset.StudyInstanceUID = f"1.2.4.{number + 100}"
    dataset.Modality = "DX"
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = np.round(255 * np.clip(smooth, 0, 1)).astype(np.uint8).tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    typer.run(main)

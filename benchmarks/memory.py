"""How much memory `fracjax score-dir` takes for exports of growing size.

    python benchmarks/memory.py 1000 10000 100000 --images FOLDER

Makes exports of which one file in a hundred is a whole radiograph (one of ten, in several transfer
syntaxes, made of the pictures in FOLDER), one in ten a small image of few different ones, and the
others are text. Prints for each the peak of the largest process, and that of all processes of the
job together: their proportional set sizes, in which a page that several share counts once, looked
at five times a second. Neither should grow with the number of files. The job reads with two
workers, whatever the machine has.
"""

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import pydicom
import typer
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from radiographs import dicom, enlarged

SIDE = 64
RADIOGRAPH = 2880, 2304
SYNTAXES = (
    ExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)
WORKERS = 2
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Peak:
    """Most memory that was seen, in bytes.

    Attributes:
        process: Resident, of the largest process.
        job: Proportional, of all processes together.
    """

    process: int = 0
    job: int = 0


def main(
    sizes: list[int],
    images: Annotated[Path, typer.Option(help="Radiographs, as JPEG files.")],
    engine: str = "auto",
    bundle: str | None = None,
) -> None:
    """Print a row for each number of files."""
    typer.echo(f"{'files':>8} {'process MiB':>11} {'job MiB':>8} {'state KiB':>10} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        radiographs = _write_radiographs(Path(folder) / "radiographs", images)
        for size in sizes:
            with tempfile.TemporaryDirectory() as work:
                _write_export(Path(work) / "export", size, radiographs)
                options = ["--engine", engine, *(["--bundle", bundle] if bundle else [])]
                typer.echo(_measure(Path(work), size, options))


def _measure(folder: Path, size: int, options: list[str]) -> str:
    out = folder / "worklist.parquet"
    job = [sys.executable, "-m", "fracjax", "score-dir", str(folder / "export"), "--out", str(out)]
    began = time.monotonic()
    process = subprocess.Popen(  # noqa: S603
        [*job, "--workers", str(WORKERS), *options], stdout=subprocess.DEVNULL
    )
    peak = Peak()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak))
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - began
    watcher.join()
    if code not in (0, 3):  # 3: the model that ships turns such pictures away
        sys.exit(code)
    state = out.with_suffix(".state").stat().st_size
    sizes = f"{peak.process / 2**20:11.0f} {peak.job / 2**20:8.0f} {state / 1024:10.0f}"
    return f"{size:8d} {sizes} {seconds:8.0f}"


def _watch(pid: int, peak: Peak) -> None:
    """Look at a job until it ends."""
    job = psutil.Process(pid)
    while True:
        try:
            processes = [job, *job.children(recursive=True)]
            used = [process.memory_full_info() for process in processes]
        except psutil.NoSuchProcess:  # one has just ended; the others are looked at next time
            if not psutil.pid_exists(pid) or job.status() == psutil.STATUS_ZOMBIE:
                return
        else:
            peak.process = max(peak.process, *(each.rss for each in used))
            peak.job = max(peak.job, sum(each.pss for each in used))
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _write_radiographs(folder: Path, images: Path) -> list[Path]:
    folder.mkdir()
    found = list(islice(sorted(images.rglob("*.jpg")), 10))
    paths = []
    for number, image in enumerate(found, start=1):
        syntax = SYNTAXES[number % len(SYNTAXES)]
        dataset = dicom(enlarged(image, RADIOGRAPH, number), syntax, number, number)
        paths.append(folder / f"IM{number}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def _write_export(root: Path, size: int, radiographs: list[Path]) -> None:
    for number in range(size):
        folder = root / f"{number // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 100 == 0:
            (folder / f"IM{number}").hardlink_to(radiographs[number // 100 % len(radiographs)])
        elif number % 10 == 1:
            _write_image(folder / f"IM{number}", number // 10 % 10)
        else:
            (folder / f"{number}.txt").write_text("no image")


def _write_image(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    coarse = rng.random((4, 4), np.float32)
    smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    dataset.StudyInstanceUID = f"1.2.4.{number}"
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

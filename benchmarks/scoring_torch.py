"""The peer of ``benchmarks/scoring.py``: what somebody writes in an afternoon to score a folder.

    python benchmarks/scoring_torch.py FOLDER OUT SIZE WORKERS float32|bfloat16

pydicom with whatever decoders it finds, its VOI, PyTorch's ``DataLoader`` in processes, ResNet-50
channels last in batches of 8; a CSV file of likelihoods. The weights are random: they take as long.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch  # no dependency of fracjax
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import apply_voi_lut  # type: ignore[attr-defined]  # not exported
from torch.utils.data import DataLoader

from finetune_torch import ResNet50

BATCH = 8


class Folder:
    """DICOM files, as network inputs float32 (size, size) in 0..1."""

    def __init__(self, root: Path, size: int) -> None:
        self.paths = sorted(path for path in root.rglob("*") if path.is_file())
        self.size = size

    def __len__(self) -> int:
        """Count the files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Read, decode, show and shrink one file."""
        dataset = dcmread(self.paths[index])
        shown = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float32)
        shown = (shown - shown.min()) / max(float(np.ptp(shown)), 1.0)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        scale = self.size / max(shown.shape)
        sides = [round(side * scale) for side in shown.shape[::-1]]
        small = cv2.resize(shown, sides, interpolation=cv2.INTER_AREA)
        square = np.zeros((self.size, self.size), np.float32)
        square[: small.shape[0], : small.shape[1]] = small
        return square


def main(root: Path, out: Path, size: int, workers: int, precision: str) -> None:
    """Score a folder."""
    model: Any = ResNet50(None).eval().to(memory_format=torch.channels_last)
    files = Folder(root, size)
    loader = DataLoader(files, batch_size=BATCH, num_workers=workers)
    likelihoods: list[float] = []
    waited, computed = 0.0, 0.0
    begin = time.monotonic()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for batch in loader:
            got = time.monotonic()
            waited += got - begin
            x = (batch[:, None] * 255 - 116.0).expand(-1, 3, -1, -1)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            likelihoods += torch.sigmoid(logits.float()).tolist()
            begin = time.monotonic()
            computed += begin - got
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(zip(files.paths, likelihoods, strict=True))
    sys.stderr.write(f"waited {waited:.1f} s for images, computed {computed:.1f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])

"""Lay out a tree of MURA's real size: ``python tests/make_mura_tree.py FOLDER``.

It is for measuring what happens at 40,005 images. Studies are as many in each body part and class
as Rajpurkar et al. publish (arXiv:1712.06957, table 1), and images as many in each split. There
are a few generated pictures only, of the usual size; each of the many files is a hard link to one.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

from make_dummy_data import encode, write, write_csv

STUDIES = {
    "train": {
        "ELBOW": (1094, 660),
        "FINGER": (1280, 655),
        "FOREARM": (590, 287),
        "HAND": (1497, 521),
        "HUMERUS": (321, 271),
        "SHOULDER": (1364, 1457),
        "WRIST": (2134, 1326),
    },
    "valid": {
        "ELBOW": (92, 66),
        "FINGER": (92, 83),
        "FOREARM": (69, 64),
        "HAND": (101, 66),
        "HUMERUS": (68, 67),
        "SHOULDER": (99, 95),
        "WRIST": (140, 97),
    },
}
"""By split and body part: normal and abnormal studies."""

IMAGES = {"train": 36_808, "valid": 3_197}

PICTURES = 16


def make_pictures(folder: Path) -> list[Path]:
    """Draw 512 x 400 pictures with the noise of an exposure, and keep them as PNG files."""
    files = []
    for seed in range(PICTURES):
        noise = np.random.default_rng(seed).normal(0, 3, (512, 400))
        ramp = np.hypot(*np.ogrid[-256:256, -200:200]) / 330
        pixels = np.clip(220 * (1 - ramp) + noise, 0, 255).astype(np.uint8)
        files.append(folder / f"picture{seed}.png")
        write(files[-1], encode(Image.fromarray(pixels), "PNG"))
    return files


def make_tree(manual_dir: Path) -> None:
    """Lay out ``MURA-v1.1`` in a folder."""
    root = manual_dir / "MURA-v1.1"
    pictures = make_pictures(manual_dir / "pictures")
    patient = 0
    for split, parts in STUDIES.items():
        studies = []
        for part, counts in parts.items():
            for finding, count in zip(("negative", "positive"), counts, strict=True):
                for _ in range(count):
                    patient += 1
                    folder = f"{split}/XR_{part}/patient{patient:05d}/study1_{finding}"
                    studies.append((folder, int(finding == "positive")))
        each, more = divmod(IMAGES[split], len(studies))
        sources = [
            f"{folder}/image{number + 1}.png"
            for index, (folder, _) in enumerate(studies)
            for number in range(each + (index < more))
        ]
        for index, source in enumerate(sources):
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            os.link(pictures[index % PICTURES], root / source)
        write_csv(root / f"{split}_image_paths.csv", [[f"MURA-v1.1/{name}"] for name in sources])
        write_csv(
            root / f"{split}_labeled_studies.csv",
            [[f"MURA-v1.1/{folder}/", str(label)] for folder, label in studies],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make_tree(parser.parse_args().folder)

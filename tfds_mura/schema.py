"""The feature schema that every builder here gives, so that a trainer need not know which it reads.

An example is one image:

========== ======================= ===============================================================
image      uint8 (height, width, 1) grey levels as stored; the file's own bytes, not encoded again
label      0 or 1                  whether the image (FracAtlas) or its study (MURA) is positive
target     str                     what a positive label means: ``fracture`` or ``abnormality``
body_part  str                     ``hand``, ``wrist``, ...; several are joined by ``+``
view       str                     projections, joined by ``+``; empty where unknown
study_id   str                     images of one study share it
group      str                     patient, or a proxy; no group stands in two splits
source     str                     the file's path inside the archive
boxes      (n, 4) float32          ymin, xmin, ymax, xmax of each finding, 0..1; may be empty
hardware   -1, 0 or 1              metal in the picture: unknown, no, yes
truncated  bool                    the file ends early, and only its intact rows are here
========== ======================= ===============================================================
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from fracjax.errors import DataError


def features() -> tfds.features.FeaturesDict:
    """Build the schema described above. Images are given to it as encoded bytes."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=2),
            "target": tfds.features.Text(),
            "body_part": tfds.features.Text(),
            "view": tfds.features.Text(),
            "study_id": tfds.features.Text(),
            "group": tfds.features.Text(),
            "source": tfds.features.Text(),
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
            "hardware": tfds.features.Scalar(np.int8),
            "truncated": tfds.features.Scalar(np.bool_),
        }
    )


def require(root: Path, names: tuple[str, ...], way_out: str) -> None:
    """Check that an archive is unpacked where its builder looks for it.

    Raises:
        DataError: Something is missing; the message says what, and ``way_out``.
    """
    for name in names:
        if not (root / name).exists():
            raise DataError(f"{root / name} is missing. {' '.join(way_out.split())}")

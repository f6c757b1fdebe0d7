"""TFDS's own test of the builder, on the dummy archive."""

from typing import ClassVar

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("tensorflow", reason="TFDS's builder test case needs TensorFlow")
pytest.importorskip("dill", reason="TFDS's builder test case needs dill")

from tfds_mura.frac_atlas import FracAtlas


class FracAtlasTest(tfds.testing.DatasetBuilderTestCase):  # type: ignore[misc]  # TFDS carries no types
    """Builds and reads the dummy archive by tf.data."""

    DATASET_CLASS = FracAtlas
    SPLITS: ClassVar[dict[str, int]] = {
        "fold_0": 6,
        "fold_1": 5,
        "fold_2": 5,
        "fold_3": 3,
        "fold_4": 3,
    }


if __name__ == "__main__":
    tfds.testing.test_main()

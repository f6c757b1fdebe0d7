"""TFDS's own test of the builder, on the dummy archive."""

from typing import ClassVar

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("tensorflow", reason="TFDS's builder test case needs TensorFlow")
pytest.importorskip("dill", reason="TFDS's builder test case needs dill")

from tfds_mura.grazpedwri_dx import GrazpedwriDx


class GrazpedwriDxTest(tfds.testing.DatasetBuilderTestCase):  # type: ignore[misc]  # TFDS carries no types
    """Builds and reads the dummy archive by tf.data."""

    DATASET_CLASS = GrazpedwriDx
    SPLITS: ClassVar[dict[str, int]] = {
        "fold_0": 4,
        "fold_1": 4,
        "fold_2": 4,
        "fold_3": 4,
        "fold_4": 7,
    }


if __name__ == "__main__":
    tfds.testing.test_main()

"""TFDS's own test of the builder, on the dummy archive."""

from typing import ClassVar

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("tensorflow", reason="TFDS's builder test case needs TensorFlow")
pytest.importorskip("dill", reason="TFDS's builder test case needs dill")

from tfds_mura.mura import Mura


class MuraTest(tfds.testing.DatasetBuilderTestCase):  # type: ignore[misc]  # TFDS carries no types
    """Builds and reads the dummy archive by tf.data."""

    DATASET_CLASS = Mura
    SPLITS: ClassVar[dict[str, int]] = {"train": 6, "valid": 3}


if __name__ == "__main__":
    tfds.testing.test_main()

"""TFDS's own test of the builder, on the dummy archive."""

from typing import ClassVar

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("tensorflow", reason="TFDS's builder test case needs TensorFlow")
pytest.importorskip("dill", reason="TFDS's builder test case needs dill")

from tfds_mura.rsna_cervical_spine import RsnaCervicalSpine


class RsnaCervicalSpineTest(tfds.testing.DatasetBuilderTestCase):  # type: ignore[misc]  # TFDS carries no types
    """Builds and reads the dummy archive by tf.data."""

    DATASET_CLASS = RsnaCervicalSpine
    SPLITS: ClassVar[dict[str, int]] = {
        "fold_0": 7,
        "fold_1": 7,
        "fold_2": 7,
        "fold_3": 7,
        "fold_4": 5,
    }


if __name__ == "__main__":
    tfds.testing.test_main()

"""RSNA 2022 Cervical Spine Fracture Detection: CT slices with and without a boxed fracture."""

from tfds_mura.rsna_cervical_spine.rsna_cervical_spine_dataset_builder import RsnaCervicalSpine

__all__ = ["RsnaCervicalSpine"]

"""MURA-v1.1: 14,656 studies of the upper extremity, each labelled normal or abnormal."""

from tfds_mura.mura.mura_dataset_builder import Mura

__all__ = ["Mura"]

"""GRAZPEDWRI-DX: wrists of children after trauma, each image labelled for visible fracture."""

from tfds_mura.grazpedwri_dx.grazpedwri_dx_dataset_builder import GrazpedwriDx

__all__ = ["GrazpedwriDx"]

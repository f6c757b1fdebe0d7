"""FracAtlas: 4,083 radiographs of hand, leg, hip and shoulder labelled for fracture."""

from tfds_mura.frac_atlas.frac_atlas_dataset_builder import FracAtlas

__all__ = ["FracAtlas"]

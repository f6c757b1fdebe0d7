"""A person's own labelled radiographs: a table, or folders that say what they hold."""

from tfds_mura.own_images.own_images_dataset_builder import OwnImages

__all__ = ["OwnImages"]

"""TFDS builders of labelled bone radiographs, all with one feature schema.

Importing a builder's module registers it with TFDS:

>>> import tensorflow_datasets as tfds
>>> import tfds_mura.frac_atlas, tfds_mura.mura
>>> builder = tfds.builder("frac_atlas")  # doctest: +SKIP
"""

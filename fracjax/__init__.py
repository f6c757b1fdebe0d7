"""Fracture detection on radiographs with JAX and Flax. Research use only.

>>> import fracjax as fj
>>> scorer = fj.load()                      # the bundled model; or fj.load("runs/r50")
>>> scorer.predict("hand.dcm").likelihood   # doctest: +SKIP
0.83
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fracjax import bundle, configs, data, image, metrics, models, train
    from fracjax.engine import Prediction, Scorer, load

__all__ = [
    "Prediction",
    "Scorer",
    "bundle",
    "configs",
    "data",
    "image",
    "load",
    "metrics",
    "models",
    "train",
]

_ENGINE = ("Prediction", "Scorer", "load")


def __getattr__(name: str) -> Any:
    """Import a part when it is first used, so that ``import fracjax`` costs nothing."""
    if name in _ENGINE:
        return getattr(import_module("fracjax.engine"), name)
    if name in __all__:
        return import_module(f"fracjax.{name}")
    raise AttributeError(f"module 'fracjax' has no attribute {name!r}")

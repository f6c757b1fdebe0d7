"""Fracture detection on radiographs with JAX and Flax. Research use only.

>>> import fracjax as fj
>>> scorer = fj.load()                      # the bundled model; or fj.load("runs/r50")
>>> scorer.predict("hand.dcm").likelihood   # doctest: +SKIP
0.83
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fracjax import (
        audit,
        bundle,
        configs,
        data,
        finish,
        image,
        metrics,
        models,
        record,
        sweep,
        train,
    )
    from fracjax.engine import Prediction, Scorer, load
    from fracjax.errors import BundleError
    from fracjax.image import Rejected

    __version__: str

__all__ = [
    "BundleError",
    "Prediction",
    "Rejected",
    "Scorer",
    "__version__",
    "audit",
    "bundle",
    "configs",
    "data",
    "finish",
    "image",
    "load",
    "metrics",
    "models",
    "record",
    "sweep",
    "train",
]

_HOMES = {
    "BundleError": "errors",
    "Prediction": "engine",
    "Rejected": "image",
    "Scorer": "engine",
    "load": "engine",
}
"""The module of each name that is none itself."""


def __getattr__(name: str) -> Any:
    """Import a part when it is first used, so that ``import fracjax`` costs nothing."""
    if name == "__version__":
        return import_module("importlib.metadata").version("fracjax")
    if name in _HOMES:
        return getattr(import_module(f"fracjax.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"fracjax.{name}")
    raise AttributeError(f"module 'fracjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the parts that are not imported yet, too: an editor completes from this."""
    return sorted(globals().keys() | __all__)

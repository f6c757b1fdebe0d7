"""Figures, each with its number of cases and an interval."""

from fracjax.metrics.delong import delong
from fracjax.metrics.intervals import (
    Bounded,
    Sample,
    difference,
    mean,
    measure,
    measure_each,
)

__all__ = ["Bounded", "Sample", "delong", "difference", "mean", "measure", "measure_each"]

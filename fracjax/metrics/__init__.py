"""Figures, each with its number of cases and an interval."""

from fracjax.metrics.delong import delong
from fracjax.metrics.intervals import (
    Bounded,
    Sample,
    auroc,
    difference,
    mean,
    measure,
    measure_each,
)

__all__ = ["Bounded", "Sample", "auroc", "delong", "difference", "mean", "measure", "measure_each"]

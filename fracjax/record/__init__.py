"""The record of a training run: lines, TensorBoard event files, and a page with curves."""

from fracjax.record.journal import Record, read, selection_values
from fracjax.record.page import write_report

__all__ = ["Record", "read", "selection_values", "write_report"]

"""The record of a training run: lines, TensorBoard event files, and a page with curves."""

from fracjax.record.journal import NoRecord, Record, read, selection_values
from fracjax.record.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "NoRecord", "Record", "read", "selection_values", "write_report"]

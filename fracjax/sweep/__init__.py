"""A search for good settings: many runs, judged on images that choose and nothing else."""

from fracjax.sweep.board import Board, Entry
from fracjax.sweep.search import Standing, run
from fracjax.sweep.space import Axis, Choice, Range, parse, parse_weights

__all__ = [
    "Axis",
    "Board",
    "Choice",
    "Entry",
    "Range",
    "Standing",
    "parse",
    "parse_weights",
    "run",
]

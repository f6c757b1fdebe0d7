"""A model's card by the items of CLAIM 2024 and TRIPOD+AI, none of them left empty."""

from fracjax.checklists.sections import Subject
from fracjax.checklists.writing import render

__all__ = ["Subject", "render"]

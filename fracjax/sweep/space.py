"""What a sweep searches: axes of the configuration, as data and as the command line says them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from optuna.trial import BaseTrial
from pydantic import TypeAdapter, ValidationError

from fracjax.configs import Architecture, Config
from fracjax.errors import UsageError

SECTIONS = ("preprocess", "model", "augment", "loss", "optimizer")
"""What may be searched. ``data`` and ``seed`` say which images judge, the same for all trials."""

JUDGE = "optimizer.monitor"
"""The figure that trials are compared by, so it is the same for all of them, too."""

LOGARITHMIC_FROM = 10
"""A range of a real number whose ends are this many times apart is drawn by its logarithm."""

_RANGE = re.compile(r"(?P<low>[^,:]+?)\.\.(?P<high>[^,:]+?)(?::(?P<scale>log|linear))?")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values.

    Attributes:
        field: ``section.field`` of the configuration.
        values: As ``--set`` takes them, each once.
    """

    field: str
    values: tuple[str, ...]

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    def __str__(self) -> str:
        return ",".join(self.values)

    def draw(self, trial: BaseTrial) -> str:
        """Draw the ``field=value`` of a new trial, or give the one that was drawn for it."""
        return f"{self.field}={trial.suggest_categorical(self.field, self.values)}"


@dataclass(frozen=True, slots=True)
class Range:
    """Any number from one to another, both included.

    Attributes:
        field: ``section.field`` of the configuration.
        low: The smallest.
        high: The largest.
        whole: Whether it is a whole number.
        log: Whether the logarithm is drawn evenly, and not the number itself.
    """

    field: str
    low: float
    high: float
    whole: bool
    log: bool

    @property
    def size(self) -> float:
        """How many values there are; infinite for real numbers."""
        return self.high - self.low + 1 if self.whole else math.inf

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}:{'log' if self.log else 'linear'}"

    def draw(self, trial: BaseTrial) -> str:
        """Draw the ``field=value`` of a new trial, or give the one that was drawn for it."""
        if self.whole:
            drawn: float = trial.suggest_int(
                self.field, int(self.low), int(self.high), log=self.log
            )
        else:
            drawn = trial.suggest_float(self.field, self.low, self.high, log=self.log)
        return f"{self.field}={drawn!r}"


Axis = Choice | Range
"""A field of the configuration and what it may be."""


def parse(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Read a search space.

    ``section.field=a,b,c`` is a choice. ``section.field=low..high`` is a range: whole numbers for a
    field that is one. Real numbers are drawn by their logarithm if the ends are above 0 and a
    factor of 10 or more apart, and evenly otherwise; whole numbers evenly. ``:log`` or ``:linear``
    after the range says it otherwise.

    >>> [str(axis) for axis in parse(["optimizer.learning_rate=1e-5..1e-3"])]
    ['1e-05..0.001:log']

    Returns:
        The axes in the order of their fields.

    Raises:
        UsageError: A field cannot be searched, stands twice, or a value is not of its kind.
    """
    axes = sorted((_axis(text) for text in texts), key=lambda axis: axis.field)
    if not axes:
        raise UsageError("there is nothing to search; give --search section.field=values")
    for one, another in pairwise(axes):
        if one.field == another.field:
            raise UsageError(f"{one.field} is searched twice; give one --search for it")
    return tuple(axes)


def parse_weights(texts: Sequence[str]) -> dict[str, Path]:
    """Read what trials begin with: ``FILE``, or ``ARCHITECTURE=FILE`` once for each architecture.

    Returns:
        Files by architecture; under ``""`` the one for all others.

    Raises:
        UsageError: There are two for the same architecture.
    """
    weights: dict[str, Path] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not (separator and name in get_args(Architecture)):
            name, path = "", text
        if name in weights:
            raise UsageError(f"there are two --weights for {name or 'all'}; give one")
        weights[name] = Path(path)
    return weights


def searchable() -> dict[str, Any]:
    """Give the fields that can be searched, with their types."""
    sections = get_type_hints(Config)
    return {
        f"{section}.{leaf}": kind
        for section in SECTIONS
        for leaf, kind in get_type_hints(sections[section]).items()
        if get_origin(kind) is not tuple and f"{section}.{leaf}" != JUDGE
    }


def _axis(text: str) -> Axis:
    field, separator, values = text.partition("=")
    kinds = searchable()
    if not separator or field not in kinds:
        raise UsageError(
            f"--search {text!r} names no field that can be searched; write one of "
            f"{', '.join(kinds)} as field=low..high or field=a,b,c"
        )
    kind = kinds[field]
    match = _RANGE.fullmatch(values)
    if match is None:
        return _choice(field, kind, values)
    return _range(field, kind, match["low"], match["high"], match["scale"])


def _choice(field: str, kind: Any, text: str) -> Choice:
    values = tuple(text.split(","))
    read = [_value(field, kind, value) for value in values]
    if len(values) < 2 or len(set(read)) < len(read):
        raise UsageError(
            f"--search {field}={text} is not usable; give two or more values that differ, or use "
            "--set for one"
        )
    return Choice(field, values)


def _range(field: str, kind: Any, first: str, last: str, scale: str | None) -> Range:
    if kind not in (int, float):
        raise UsageError(f"{field} has no range; give its values with commas between")
    low, high = (_value(field, kind, text) for text in (first, last))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"--search {field}={first}..{last} is no range; give the smaller end first"
        )
    log = scale == "log"
    if scale is None:
        log = kind is float and 0 < low * LOGARITHMIC_FROM <= high
    if log and low <= 0:
        raise UsageError(f"--search {field}={first}..{last} has no logarithm; begin above 0")
    return Range(field, float(low), float(high), kind is int, log)


def _value(field: str, kind: Any, text: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise UsageError(f"--search {field}: {text!r} does not fit: {said}") from None

"""Operating points: thresholds that were chosen once, and are applied unchanged elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fracjax.figure import Figure

Name = Literal["high_sensitivity", "high_specificity", "youden"]

RULES: Mapping[Name, str] = {
    "high_sensitivity": "the highest threshold that calls 95 % of positives",
    "high_specificity": "the lowest threshold that calls 5 % of negatives at most",
    "youden": "the threshold with the largest sum of sensitivity and specificity (Youden 1950)",
}

SPREADS: Mapping[Name, str] = {
    "high_sensitivity": "95 % interval",
    "high_specificity": "95 % interval",
    "youden": "middle 95 % of what draws of groups chose",
}
"""What stands between an operating point's ``low`` and ``high``."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, and how sure it is.

    Attributes:
        threshold: Raw likelihood of a study, 0..1, from which on it is called positive; of a point
            that calls nothing a little more than 1.
        low: Lower end of the threshold's 95 % interval; 0 where no case says how low it may be. Of
            ``youden``, the spread that :data:`SPREADS` says.
        high: Upper end; 1 where no case says how high.
        sensitivity: On the studies that it was chosen by, and so too good.
        specificity: On the same.
    """

    threshold: float
    low: float
    high: float
    sensitivity: Figure
    specificity: Figure

"""A measured figure: no number leaves the program without its cases and its interval."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure.

    Attributes:
        value: The figure over all cases.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Cases.
        positives: Cases with a positive label.
        groups: Patients or leakage groups that the interval was drawn over.
    """

    value: float
    low: float
    high: float
    n: int
    positives: int
    groups: int

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} (95 % interval {self.low:.3f} to {self.high:.3f}; n = {self.n}, "
            f"{self.positives} positive, {self.groups} groups)"
        )

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
        return self.shown()

    def shown(self, sign: str = "") -> str:
        """Give the figure in words; with ``+`` as sign, as a difference."""
        value, low, high = (
            format(number, f"{sign}.3f") for number in (self.value, self.low, self.high)
        )
        return (
            f"{value} (95 % interval {low} to {high}; n = {self.n}, {self.positives} positive, "
            f"{self.groups} groups)"
        )


@dataclass(frozen=True, slots=True)
class Undefined:
    """Why there is no figure of some cases.

    Attributes:
        reason: In a few words.
        n: Cases.
        positives: Cases with a positive label.
        groups: Patients or leakage groups.
    """

    reason: str
    n: int
    positives: int
    groups: int

    def __str__(self) -> str:
        return self.shown()

    def shown(self, sign: str = "") -> str:
        """Say why there is no figure."""
        return (
            f"undefined: {self.reason} (n = {self.n}, {self.positives} positive, "
            f"{self.groups} groups)"
        )

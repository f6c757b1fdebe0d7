"""Likelihoods that are frequencies: of a population like the one that they were fitted on.

A network's outputs rank; they are no probabilities (Guo et al. 2017, arXiv:1706.04599). A
calibration maps a study's raw likelihood to a calibrated one. It is fitted on images that were not
learned from, and holds where positives are as frequent as there; :func:`at_prevalence` moves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fracjax.errors import UsageError

Method = Literal["temperature", "platt", "isotonic"]

CERTAIN = 1e-6
"""Likelihoods nearer than this to 0 or 1 are taken for this near: no network is surer."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map of likelihoods, 0..1 to 0..1, that never turns their order round.

    Attributes:
        method: ``temperature``: log odds times ``scale``. ``platt``: and ``offset`` added (Platt
            1999). ``isotonic``: a straight line from each of ``knots`` to the next (Zadrozny and
            Elkan 2002).
        scale: Of the log odds; 1 divided by the temperature.
        offset: Of the log odds.
        knots: Raw and calibrated likelihoods, both rising.
        prevalence: Part of positives among the studies that it was fitted on.
        studies: How many studies these were.
        positives: Those of them with a positive label.
        groups: Their patients or leakage groups.
        sha256: Digest of their images and labels.
        log_losses: For each method, its mean cross entropy, nats, on groups of those studies that
            it was not fitted on; the method has the least.
    """

    method: Method
    scale: float
    offset: float
    knots: tuple[tuple[float, float], ...]
    prevalence: float
    studies: int
    positives: int
    groups: int
    sha256: str
    log_losses: Mapping[Method, float]

    def __call__(self, likelihoods: ArrayLike) -> Floats:
        """Calibrate raw likelihoods (...), 0..1."""
        raw = np.asarray(likelihoods, np.float64)
        if self.method == "isotonic":
            before, after = np.array(self.knots).T
            return np.asarray(np.interp(raw, before, after), np.float64)
        return of_log_odds(self.scale * log_odds(raw) + self.offset)

    def at_prevalence(self, likelihoods: ArrayLike, prevalence: float | None) -> Floats:
        """Calibrate raw likelihoods (...) for a population where positives are as frequent.

        This is Bayes' rule with another prior (Saerens et al., Neural Computation 14:21, 2002): it
        takes positives, and negatives, to look as they did in the studies of the calibration.

        Args:
            likelihoods: Raw ones, 0..1.
            prevalence: Above 0, below 1; ``None`` for that of the studies of the calibration.
        """
        calibrated = self(likelihoods)
        if prevalence is None:
            return calibrated
        return of_log_odds(log_odds(calibrated) + log_odds(prevalence) - log_odds(self.prevalence))


def as_shown(raw: ArrayLike, calibration: Calibration | None, prevalence: float | None) -> Floats:
    """Give likelihoods (...) as they are shown, of raw ones; raw where nothing calibrates them."""
    if calibration is None:
        return np.asarray(raw, np.float64)
    return calibration.at_prevalence(raw, prevalence)


def in_words(calibration: Calibration | None, prevalence: float | None) -> str:
    """Say in a line whether likelihoods are frequencies, and of which population."""
    if calibration is None:
        return "not calibrated: it ranks, but 0.8 does not mean 80 in 100"
    said = (
        f"calibrated ({calibration.method}) on {calibration.studies} studies, "
        f"{calibration.positives} positive, of the training set's kind"
    )
    if prevalence is None:
        return f"{said}, where {100 * calibration.prevalence:.1f} % are positive"
    return f"{said}; said of a population where {100 * prevalence:g} % are positive"


def check_prevalence(prevalence: float | None) -> None:
    """Make sure that a prevalence is one, or is not given.

    Raises:
        UsageError: It is not above 0 and below 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(
            f"a prevalence of {prevalence:g} leaves nothing to tell; give a part above 0 and "
            "below 1, like 0.15"
        )


def log_odds(likelihoods: ArrayLike) -> Floats:
    """Give log odds, of likelihoods no nearer to 0 and 1 than :data:`CERTAIN`."""
    raw = np.clip(np.asarray(likelihoods, np.float64), CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(raw) - np.log1p(-raw), np.float64)


def of_log_odds(values: Floats) -> Floats:
    """Give the likelihoods of log odds."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)), np.float64)

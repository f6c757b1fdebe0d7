"""A network whose convolutions multiply 8-bit integers: what it takes beside its weights.

A convolution takes its input in 256 even steps, over a range that training images have told, and
the kernels of each output in 255 even steps about 0 (Jacob et al. 2018, arXiv:1712.05877, 2). The
first few convolutions, where rounding costs most, and all else stay in float32. It is another model
than that of the same weights in float32: its likelihoods are others, so gate, calibration,
operating points and figures are its own.
:mod:`fracjax.quantize` makes one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Integers(NamedTuple):
    """The arrays of such a network.

    Attributes:
        ranges: float32 (n, 2), least and largest input of each convolution, in the order in which
            they are computed. 0 lies in each. NaN of those that stay in float32.
        likelihoods: float32 (m, outputs) of the known radiographs (:mod:`fracjax.forward.probes`).
        features: float32 (m, d) of the same.
    """

    ranges: NDArray[np.float32]
    likelihoods: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Moved:
    """How far likelihoods lie from those in float32, of images that neither learned from.

    Attributes:
        median: Of the distances, 0..1.
        most: What 95 of 100 do not pass.
        largest: Of all.
        n: Images.
    """

    median: float
    most: float
    largest: float
    n: int

    def __str__(self) -> str:
        return (
            f"by {self.median:.4f} at the median, in 95 of 100 by no more than {self.most:.3f}, at "
            f"most by {self.largest:.3f} (n = {self.n})"
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says of them.

    Attributes:
        source: The model of the same weights in float32.
        convolutions: How many multiply integers.
        images: Training images that told the ranges.
        moved: How far likelihoods lie from those of ``source``.
        sha256: Digest of the file of the arrays.
        software: Versions of what made and measured them.
        created: The day.
    """

    source: str
    convolutions: int
    images: int
    moved: Moved
    sha256: str
    software: dict[str, str]
    created: str


UNMEASURED = Moved(0.0, 0.0, 0.0, 0)
"""Of a model in the making."""


def moved(likelihoods: NDArray[np.float32], exact: NDArray[np.float32]) -> Moved:
    """Compare likelihoods (n,) with those in float32.

    >>> str(moved(np.float32([0.5, 0.25]), np.float32([0.5, 0.5])))
    'by 0.1250 at the median, in 95 of 100 by no more than 0.237, at most by 0.250 (n = 2)'
    """
    apart = np.abs(likelihoods - exact)
    median, most = np.quantile(apart, [0.5, 0.95])
    return Moved(float(median), float(most), float(apart.max()), len(apart))

"""The picture gate: is a picture like those that the model learned from?

A network gives a number for anything, and a confident one for much that is no radiograph. The gate
measures how far a picture's features lie from those of the training images: the Mahalanobis
distance (Lee et al. 2018, arXiv:1807.03888), under the covariance of probabilistic principal
component analysis (Tipping and Bishop 1999, doi:10.1111/1467-9868.00196). The negative of a
radiograph lies near radiographs, but a linear discriminant (Fisher 1936) between the two tells it.
All functions are of arrays. :mod:`fracjax.gate_fitting` makes a gate, and needs scikit-learn for
it; this does not, so that scoring starts without.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Gate(NamedTuple):
    """A normal distribution of features, and a plane between them and those of negatives.

    Attributes:
        mean: float32 (d,).
        components: float32 (k, d), orthonormal.
        variances: float32 (k,), along the components.
        noise: float32 (), the variance in every direction that is orthogonal to them.
        normal: float32 (d,), of the plane; it points to the side of negatives.
        offset: float32 (), of the plane: there, features times ``normal`` plus this is 0.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: NDArray[np.float32]
    normal: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured part of some images, with its 95 % interval (Wilson 1927).

    Attributes:
        value: The part, 0..1.
        low: Lower end of the interval.
        high: Upper end.
        n: Images. Those of one patient count as independent, so the interval is too narrow.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} (95 % interval {self.low:.3f} to {self.high:.3f}; n = {self.n})"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says of the gate.

    Attributes:
        method: The distance that is measured.
        stage: The stage of the network, from 1, whose mean output is the features.
        quantile: Part of the training images, each measured by a gate that was not fitted on its
            group, that lies within ``threshold``.
        threshold: The largest distance of a familiar picture.
        images: Pictures that the gate was fitted on: the training images, and changed copies.
        sha256: Digest of the gate's file.
        false_reject: Part of radiographs that are turned away, by collection.
        false_accept: Part of other pictures that are let through, by collection.
    """

    method: str
    stage: int
    quantile: float
    threshold: float
    images: int
    sha256: str
    false_reject: dict[str, Rate]
    false_accept: dict[str, Rate]


UNFITTED = Facts("", 0, 0.0, 0.0, 0, "", {}, {})


def distances(gate: Gate, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure how far features lie from those that the gate was fitted on.

    Args:
        gate: Of d features.
        features: float32 (n, d).

    Returns:
        float32 (n,) >= 0: the Mahalanobis distance over the square root of d, so the root mean
        square number of standard deviations; about 1 for a picture as they were.
    """
    squares = squared_distances(gate.mean, gate.components, gate.variances, gate.noise, features)
    return np.asarray(np.sqrt(squares / features.shape[1]), np.float32)


def squared_distances(
    mean: NDArray[Any],
    components: NDArray[Any],
    variances: NDArray[Any],
    noise: NDArray[Any],
    features: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Square the Mahalanobis distances of features (n, d), float64 (n,).

    The others are the first attributes of :class:`Gate`, in any precision.
    """
    centred = features.astype(np.float64) - mean
    along = centred @ components.T.astype(np.float64)
    across = centred - along @ components
    squares = (along**2 / variances).sum(axis=1) + (across**2).sum(axis=1) / noise
    return np.asarray(squares, np.float64)


def are_negatives(gate: Gate, features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which features (n, d) lie on the side of negatives; bool (n,)."""
    return np.asarray(features.astype(np.float64) @ gate.normal + gate.offset > 0)


def rate(counted: NDArray[np.bool_]) -> Rate:
    """Give the part of images for which ``counted`` (n,) is true, with Wilson's interval (1927).

    >>> str(rate(np.zeros(16, bool)))
    '0.000 (95 % interval 0.000 to 0.194; n = 16)'

    Raises:
        ValueError: There are no images.
    """
    n, count = len(counted), int(counted.sum())
    if n == 0:
        raise ValueError("a rate needs images")
    z = 1.959964  # the normal distribution's 97.5 % quantile
    centre = (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return Rate(count / n, max(0.0, centre - half), min(1.0, centre + half), n)

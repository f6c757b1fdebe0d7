"""The picture gate: is a picture like those that the model learned from?

A network gives a number for anything, and a confident one for much that is no radiograph. The gate
measures how far a picture's features lie from those of the training images: the Mahalanobis
distance (Lee et al. 2018, arXiv:1807.03888), under the covariance of probabilistic principal
component analysis (Tipping and Bishop 1999, doi:10.1111/1467-9868.00196). The negative of a
radiograph lies near radiographs, but a linear discriminant (Fisher 1936) between the two tells it.
All functions are of arrays.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold

METHOD = "Mahalanobis distance, covariance of probabilistic PCA; linear discriminant of negatives"

COMPONENTS = 128
"""Directions with a variance of their own. All others share one."""

FOLDS = 5
"""Parts of the training groups, each measured by a gate that was fitted on the others."""

QUANTILE = 0.9975
"""Part of the training images, as :func:`held_out_distances` measures them, that is familiar."""

WIDEST_BORDER = 0.5
"""The widest border of :func:`with_border`, as a part of the picture's side."""


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


def fit(features: NDArray[np.float32], negatives: NDArray[np.float32]) -> Gate:
    """Fit a gate.

    Args:
        features: float32 (n, d) of pictures as they should be.
        negatives: float32 (m, d) of such pictures with black and white exchanged.

    Raises:
        ValueError: There are fewer than 4 pictures, or their features hardly differ.
    """
    pca = _fit_distribution(features)
    plane = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    rows = np.concatenate([features, negatives]).astype(np.float64)
    plane.fit(rows, np.repeat([0, 1], [len(features), len(negatives)]))
    arrays = (
        *(pca.mean_, pca.components_, pca.explained_variance_, pca.noise_variance_),
        *(plane.coef_[0], plane.intercept_[0]),
    )
    return Gate(*(np.asarray(array, np.float32) for array in arrays))


def distances(gate: Gate, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure how far features lie from those that the gate was fitted on.

    Args:
        gate: Of d features.
        features: float32 (n, d).

    Returns:
        float32 (n,) >= 0: the Mahalanobis distance over the square root of d, so the root mean
        square number of standard deviations; about 1 for a picture as they were.
    """
    squares = _squares(gate.mean, gate.components, gate.variances, gate.noise, features)
    return np.asarray(np.sqrt(squares / features.shape[1]), np.float32)


def are_negatives(gate: Gate, features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which features (n, d) lie on the side of negatives; bool (n,)."""
    return np.asarray(features.astype(np.float64) @ gate.normal + gate.offset > 0)


def held_out_distances(features: NDArray[np.float32], groups: ArrayLike) -> NDArray[np.float32]:
    """Measure each row by a gate that was fitted on other groups.

    Args:
        features: float32 (n, d).
        groups: n names, two or more of them different.

    Returns:
        float32 (n,), as :func:`distances`.

    Raises:
        ValueError: As :func:`fit`, or there is one group only.
    """
    names = np.asarray(groups)
    folds = GroupKFold(min(FOLDS, len(np.unique(names))))
    measured = np.empty(len(features), np.float32)
    for others, held_out in folds.split(features, groups=names):
        pca = _fit_distribution(features[others])
        fitted = (pca.mean_, pca.components_, pca.explained_variance_, pca.noise_variance_)
        measured[held_out] = np.sqrt(_squares(*fitted, features[held_out]) / features.shape[1])
    return measured


def with_border(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Put white borders beside a picture, as unexposed film beside a collimator is shown.

    Radiographs as PACS hold them have such borders, some wider than the exposed field; data sets
    to learn from are often cropped.

    Args:
        pixels: (h, w).
        rng: Each pair of sides (above and below, left and right) gets borders with probability
            1/2, each of a width up to ``WIDEST_BORDER``.
    """
    height, width = pixels.shape
    sides = np.array([[height], [width]]) * WIDEST_BORDER
    borders = rng.integers(0, 2, (2, 1)) * rng.random((2, 2)) * sides
    return np.pad(pixels, borders.astype(int), constant_values=255)


def inverted(pixels: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
    """Give the negative of a picture (h, w)."""
    return 255 - pixels


def inverted_with_border(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Give the negative of a picture (h, w) that has borders by chance, then black ones."""
    return inverted(with_border(pixels, rng), rng)


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


def _fit_distribution(features: NDArray[np.float32]) -> PCA:
    if len(features) < 4:
        raise ValueError(f"{len(features)} pictures are too few for a gate")
    count = min(COMPONENTS, len(features) // 2, features.shape[1] // 2)
    with np.errstate(invalid="ignore"):  # where nothing varies; that is refused below
        pca = PCA(count, svd_solver="full").fit(features.astype(np.float64))
    # Below this, a direction holds rounding errors of float32 and no more.
    least = (np.finfo(np.float32).eps * np.abs(features).max()) ** 2
    if min(pca.noise_variance_, pca.explained_variance_[-1]) <= least:
        raise ValueError("the pictures' features hardly differ, so nothing can be told by them")
    return pca


def _squares(
    mean: NDArray[Any],
    components: NDArray[Any],
    variances: NDArray[Any],
    noise: NDArray[Any],
    features: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Square the Mahalanobis distances of features (n, d)."""
    centred = features.astype(np.float64) - mean
    along = centred @ components.T.astype(np.float64)
    across = centred - along @ components
    squares = (along**2 / variances).sum(axis=1) + (across**2).sum(axis=1) / noise
    return np.asarray(squares, np.float64)

"""Making a picture gate from what a network sees in its training images.

All functions are of arrays.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold

from fracjax import gate

METHOD = "Mahalanobis distance, covariance of probabilistic PCA; linear discriminant of negatives"

COMPONENTS = 128
"""Directions with a variance of their own. All others share one."""

FOLDS = 5
"""Parts of the training groups, each measured by a gate that was fitted on the others."""

QUANTILE = 0.9975
"""Part of the training images, as :func:`held_out_distances` measures them, that is familiar."""

WIDEST_BORDER = 0.5
"""The widest border of :func:`with_border`, as a part of the picture's side."""


def fit(features: NDArray[np.float32], negatives: NDArray[np.float32]) -> gate.Gate:
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
    return gate.Gate(*(np.asarray(array, np.float32) for array in arrays))


def held_out_distances(features: NDArray[np.float32], groups: ArrayLike) -> NDArray[np.float32]:
    """Measure each row by a gate that was fitted on other groups.

    Args:
        features: float32 (n, d).
        groups: n names, two or more of them different.

    Returns:
        float32 (n,), as :func:`fracjax.gate.distances`.

    Raises:
        ValueError: As :func:`fit`, or there is one group only.
    """
    names = np.asarray(groups)
    folds = GroupKFold(min(FOLDS, len(np.unique(names))))
    measured = np.empty(len(features), np.float32)
    for others, held_out in folds.split(features, groups=names):
        pca = _fit_distribution(features[others])
        fitted = (pca.mean_, pca.components_, pca.explained_variance_, pca.noise_variance_)
        measured[held_out] = np.sqrt(
            gate.squared_distances(*fitted, features[held_out]) / features.shape[1]
        )
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

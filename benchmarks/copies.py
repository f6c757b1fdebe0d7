"""How many changed copies of radiographs the audit finds, and how many strangers it takes for one.

python benchmarks/copies.py frac_atlas DATA_DIR fold_0 fold_1 fold_2 fold_3 fold_4
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fracjax import data
from fracjax.audit import duplicates

Pixels = NDArray[np.uint8]
SAMPLE = 150


def levels(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[..., Pixels]:
    """Make a change of grey levels 0..255."""
    return lambda pixels, _: change(pixels.astype(float)).clip(0, 255).astype(np.uint8)


def crop(part: float) -> Callable[..., Pixels]:
    """Cut away a part of each side's length, at a random place."""

    def change(pixels: Pixels, rng: np.random.Generator) -> Pixels:
        cut = [int(length * part) for length in pixels.shape]
        top, left = (int(rng.integers(0, length + 1)) for length in cut)
        height, width = (length - gone for length, gone in zip(pixels.shape, cut, strict=True))
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])

    return change


def rotate(degrees: float) -> Callable[..., Pixels]:
    """Rotate by an angle to a random side; the corners are black."""

    def change(pixels: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = pixels.shape
        angle = float(degrees * rng.choice([-1, 1]))
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        return cv2.warpAffine(pixels, turn, (width, height)).astype(np.uint8)

    return change


def jpeg(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """Store as JPEG of quality 30."""
    stored = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_GRAYSCALE), np.uint8)


def together(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Mirror, turn by 90 degrees, rotate by 5, crop by 5 % and change gamma."""
    changed = crop(0.05)(rotate(5)(duplicates.turned(pixels, 5), rng), rng)
    return CHANGES["gamma 0.8"](changed, rng)


CHANGES: dict[str, Callable[..., Pixels]] = {
    "turned and mirrored": lambda pixels, rng: duplicates.turned(pixels, int(rng.integers(1, 8))),
    "brightness +30": levels(lambda x: x + 30),
    "brightness -30": levels(lambda x: x - 30),
    "contrast x 1.4": levels(lambda x: (x - 128) * 1.4 + 128),
    "contrast x 0.6": levels(lambda x: (x - 128) * 0.6 + 128),
    "gamma 0.6": levels(lambda x: 255 * (x / 255) ** 0.6),
    "gamma 0.8": levels(lambda x: 255 * (x / 255) ** 0.8),
    "gamma 1.7": levels(lambda x: 255 * (x / 255) ** 1.7),
    "JPEG quality 30": jpeg,
    "half the size": lambda pixels, _: cv2.resize(
        pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA
    ).astype(np.uint8),
    "crop by 5 %": crop(0.05),
    "crop by 10 %": crop(0.10),
    "rotation by 3 degrees": rotate(3),
    "rotation by 5 degrees": rotate(5),
    "rotation by 10 degrees": rotate(10),
    "mirrored, turned, rotated by 5, cropped by 5 %, gamma 0.8": together,
}


def compare(one: duplicates.Sketch, other: duplicates.Sketch) -> tuple[int, float]:
    """Give distance and correlation of two sketches, whatever the distance."""
    distances = np.bitwise_count(one.hashes[0] ^ other.hashes)
    turn = int(distances.argmin())
    thumbnail = duplicates.turned(other.thumbnail, turn)
    return int(distances[turn]), duplicates.correlation(one.thumbnail, thumbnail)


def main(name: str, data_dir: str, *splits: str) -> None:
    """Measure, and print."""
    images = data.load(name, splits, Path(data_dir))
    rng = np.random.default_rng(0)
    sample = [images[int(i)].pixels() for i in rng.choice(len(images), SAMPLE, replace=False)]
    sketches = [duplicates.sketch(pixels) for pixels in sample]
    for what, change in CHANGES.items():
        pairs = [
            compare(sketch, duplicates.sketch(change(pixels, rng)))
            for pixels, sketch in zip(sample, sketches, strict=True)
        ]
        near = np.array([distance <= duplicates.RADIUS for distance, _ in pairs])
        alike = np.array([value >= duplicates.MIN_CORRELATION for _, value in pairs])
        print(  # noqa: T201
            f"{what}: hash within reach {near.mean():.3f}, detail correlates {alike.mean():.3f}, "
            f"found {(near & alike).mean():.3f}"
        )
    hashes = np.stack([duplicates.sketch(example.pixels()).hashes for example in images])
    found = duplicates.candidates(hashes, radius=64, limit=len(hashes) ** 2)
    n = len(found.distance)
    print("pairs", n, "distance of 0.1 %, 1 %, 50 %", found.distance[[n // 1000, n // 100, n // 2]])  # noqa: T201
    for radius in range(0, 18, 2):
        print("pairs within", radius, int((found.distance <= radius).sum()))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])

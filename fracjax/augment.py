"""Random changes of the training pictures, drawn and applied on the device.

What is drawn for a picture depends on the key that came with it alone, so that a batch changes
alike on any number of devices.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fracjax.configs import Augment

# Each of these draws from a key of its own, so that switching one on changes no other draw.
_FLIP_VERTICAL, _NOISE, _CUTOUT, _MIXUP, _BLUR, _BARS, _CORNERS, _JPEG = range(1, 9)

CORNER = 0.15
"""Side of a corner that is blacked, as a part of the picture's: where markers stand."""

# Luminance quantisation, ITU-T T.81, table K.1: rows by vertical frequency.
_QUANTISATION = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def augment(pictures: jax.Array, keys: jax.Array, config: Augment) -> jax.Array:
    """Move, mirror, change the contrast of and disturb each picture of a batch by chance.

    A horizontal flip also mirrors the L or R marker in a radiograph: what is learned here does
    not know one side of the body from the other. Noise is added as far as it is within 0..1, and
    not where a picture is black. :func:`mixup` is left to the caller, since it changes labels too.

    Args:
        pictures: float32 (batch, size, size) in 0..1.
        keys: PRNG keys (batch,), one a picture; the same key gives the same changes. Make them of
            the place in the whole batch, not in a device's share.
        config: The largest change of each kind. What is zero costs nothing.

    Returns:
        Pictures of the same shape and range. What is turned in from outside is black, and what is
        black stays so.
    """
    return jax.vmap(functools.partial(_augment_one, config=config))(pictures, keys)


def mixup(
    pictures: jax.Array, weights: jax.Array, keys: jax.Array, config: Augment
) -> tuple[jax.Array, jax.Array]:
    """Mix the first picture with the second, the third with the fourth, and so on, with labels.

    A pair's shares are drawn from a beta distribution (Zhang et al., arXiv:1710.09412), and either
    picture of it becomes a mixture: one with the one share, the other with the other. A share of a
    batch of even length holds whole pairs, and mixes as it would within the whole batch.

    Args:
        pictures: float32 (batch, size, size); the batch is even.
        weights: float32 (batch, outputs, 2), as :mod:`fracjax.losses` takes them.
        keys: Those of :func:`augment`. The first of a pair counts.
        config: ``mixup``, above 0, is the parameter of the distribution.

    Returns:
        Pictures and weights of the same shapes. A label that one of a pair lacks, both lack then:
        the mixture shows something of a picture of which it is not known.
    """

    def share_of(key: jax.Array) -> jax.Array:
        return jax.random.beta(jax.random.fold_in(key, _MIXUP), config.mixup, config.mixup)

    shares = jax.vmap(share_of)(keys.reshape(-1, 2)[:, 0])

    def mixed(pairs: jax.Array) -> jax.Array:
        share = jnp.expand_dims(shares, range(1, pairs.ndim))
        return share * pairs + (1 - share) * pairs[:, ::-1]

    picture_pairs = pictures.reshape(-1, 2, *pictures.shape[1:])
    weight_pairs = weights.reshape(-1, 2, *weights.shape[1:])
    known = (weight_pairs.sum(axis=-1, keepdims=True) > 0).all(axis=1, keepdims=True)
    return (
        mixed(picture_pairs).reshape(pictures.shape),
        (mixed(weight_pairs) * known).reshape(weights.shape),
    )


def _augment_one(picture: jax.Array, key: jax.Array, config: Augment) -> jax.Array:
    size = picture.shape[0]
    places = (jnp.arange(size) + 0.5) / size
    draws = jax.random.uniform(key, (7,), minval=-1.0)
    if config.jpeg:
        # Before the picture is turned: what was compressed is a file.
        coarseness = jax.random.uniform(jax.random.fold_in(key, _JPEG), maxval=config.jpeg)
        picture = compress(picture, coarseness) * (picture > 0)
    if any((config.rotation, config.scale, config.shift, config.flip, config.flip_vertical)):
        angle = draws[0] * jnp.deg2rad(config.rotation)
        scale = 1 + draws[1] * config.scale
        shift = draws[2:4] * config.shift * size
        mirror = jnp.where(draws[4] < 2 * config.flip - 1, -1.0, 1.0)
        upend = jax.random.bernoulli(jax.random.fold_in(key, _FLIP_VERTICAL), config.flip_vertical)
        picture = warp(
            picture, angle, scale, shift, jnp.stack([jnp.where(upend, -1.0, 1.0), mirror])
        )
    shown = picture > 0
    if config.blur:
        deviation = jax.random.uniform(jax.random.fold_in(key, _BLUR), maxval=config.blur)
        picture = blur(picture, deviation, math.ceil(3 * config.blur)) * shown
    if config.contrast or config.gamma:
        contrast = 1 + draws[5] * config.contrast
        gamma = jnp.exp2(draws[6] * config.gamma)
        # Around mid-grey, and only inside 0..1, as a change of window would show it.
        picture = jnp.clip((picture - 0.5) * contrast + 0.5, 0, 1) ** gamma * shown
    if config.noise:
        of_strength, of_pixels = jax.random.split(jax.random.fold_in(key, _NOISE))
        deviation = jax.random.uniform(of_strength, maxval=config.noise)
        noise = deviation * jax.random.normal(of_pixels, picture.shape)
        picture = jnp.clip(picture + noise, 0, 1) * shown
    if config.cutout:
        *centre, part = jax.random.uniform(jax.random.fold_in(key, _CUTOUT), (3,))
        # The centre is anywhere in the picture, so part of the square may lie outside.
        rows, columns = (jnp.abs(places - place) < part * config.cutout / 2 for place in centre)
        picture *= ~(rows[:, None] & columns)
    if config.bars:
        widths = jax.random.uniform(jax.random.fold_in(key, _BARS), (2, 2), maxval=config.bars)
        rows, columns = ((places >= first) & (places <= 1 - last) for first, last in widths)
        picture *= rows[:, None] & columns
    if config.corners:
        is_black = jax.random.bernoulli(
            jax.random.fold_in(key, _CORNERS), config.corners, shape=(2, 2)
        )
        ends = jnp.stack([places < CORNER, places > 1 - CORNER]).astype(jnp.float32)
        picture *= jnp.einsum("ir,jc,ij->rc", ends, ends, is_black) == 0
    return picture


def compress(picture: jax.Array, coarseness: jax.Array) -> jax.Array:
    """Lose what a JPEG of one component loses: round the cosine transform of blocks of 8 x 8.

    Args:
        picture: float32 (size, size) in 0..1. A block that reaches beyond the edge sees it go on as
            at the edge.
        coarseness: Steps of the rounding, as a multiple of table K.1 (ITU-T T.81); 1 is what
            libjpeg calls quality 50. At 0 nothing but what 8 bits lose is lost.

    Returns:
        float32 (size, size) in 0..1.
    """
    size = picture.shape[0]
    padded = jnp.pad(picture, (0, -size % 8), mode="edge")
    blocks = padded.reshape(len(padded) // 8, 8, len(padded) // 8, 8) * 255 - 128
    # Entries of tables of 8 bits are whole numbers from 1 to 255 (B.2.4.1).
    steps = jnp.clip(jnp.floor(coarseness * _QUANTISATION + 0.5), 1, 255)  # halves up, as libjpeg
    cosines = jax.scipy.fft.dct(jnp.eye(8), axis=0, norm="ortho")
    exactly = jax.lax.Precision.HIGHEST  # or accelerators round more than a JPEG does
    frequencies = jnp.einsum("ur,irjc,vc->iujv", cosines, blocks, cosines, precision=exactly)
    rounded = jnp.round(frequencies / steps[:, None, :]) * steps[:, None, :]
    restored = jnp.einsum("ur,iujv,vc->irjc", cosines, rounded, cosines, precision=exactly)
    grey = jnp.clip((restored + 128) / 255, 0, 1)
    return grey.reshape(padded.shape)[:size, :size]


def blur(picture: jax.Array, deviation: jax.Array, radius: int) -> jax.Array:
    """Blur a picture by a Gaussian, as one of fewer pixels looks when it is enlarged.

    Args:
        picture: float32 (size, size); beyond its edge it goes on as at the edge.
        deviation: Of the Gaussian, pixels.
        radius: Pixels at which the Gaussian is cut off.

    Returns:
        float32 (size, size).
    """
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(deviation, 1e-3)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        around = [(radius, radius) if one == axis else (0, 0) for one in (0, 1)]
        padded = jnp.pad(picture, around, mode="edge")
        shifted = [
            jax.lax.slice_in_dim(padded, start, start + picture.shape[axis], axis=axis)
            for start in range(2 * radius + 1)
        ]
        picture = jnp.tensordot(weights, jnp.stack(shifted), axes=1)
    return picture


def warp(
    picture: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array, mirror: jax.Array
) -> jax.Array:
    """Turn, enlarge and move a picture about its centre, by bilinear sampling.

    Args:
        picture: float32 (size, size).
        angle: Radians; positive turns the picture clockwise as it is seen.
        scale: Above 1 enlarges.
        shift: (2,), pixels down and to the right.
        mirror: (2,); of the first, -1 turns the picture upside down before all else, of the second
            -1 mirrors left and right; 1 does not.

    Returns:
        float32 (size, size), zero where nothing of the picture lies.
    """
    size = picture.shape[0]
    centre = (size - 1) / 2
    axis = jnp.arange(size) - centre
    rows = axis[:, None] - shift[0]
    columns = axis[None, :] - shift[1]
    cosine, sine = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    source_rows = mirror[0] * (cosine * rows - sine * columns) + centre
    source_columns = mirror[1] * (sine * rows + cosine * columns) + centre
    warped: jax.Array = jax.scipy.ndimage.map_coordinates(
        picture, [source_rows, source_columns], order=1, mode="constant"
    )
    return warped

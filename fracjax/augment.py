"""Random changes of the training pictures, drawn and applied on the device."""

import jax
import jax.numpy as jnp

from fracjax.configs import Augment


def augment(pictures: jax.Array, key: jax.Array, config: Augment) -> jax.Array:
    """Rotate, scale, shift, flip and change the contrast of each picture of a batch by chance.

    A horizontal flip also mirrors the L or R marker in a radiograph: what is learned here does
    not know one side of the body from the other.

    Args:
        pictures: float32 (batch, size, size) in 0..1.
        key: A PRNG key; the same key gives the same changes.
        config: The largest change of each kind.

    Returns:
        Pictures of the same shape and range. What is turned in from outside is black.
    """
    keys = jax.random.split(key, len(pictures))
    return jax.vmap(_augment_one, in_axes=(0, 0, None))(pictures, keys, config)


def _augment_one(picture: jax.Array, key: jax.Array, config: Augment) -> jax.Array:
    draws = jax.random.uniform(key, (7,), minval=-1.0)
    angle = draws[0] * jnp.deg2rad(config.rotation)
    scale = 1 + draws[1] * config.scale
    shift = draws[2:4] * config.shift * picture.shape[0]
    mirror = jnp.where(draws[4] < 2 * config.flip - 1, -1.0, 1.0)
    warped = warp(picture, angle, scale, shift, mirror)
    contrast = 1 + draws[5] * config.contrast
    gamma = jnp.exp2(draws[6] * config.gamma)
    # Around mid-grey, and only inside 0..1, as a change of window would show it.
    return jnp.clip((warped - 0.5) * contrast + 0.5, 0, 1) ** gamma * (warped > 0)


def warp(
    picture: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array, mirror: jax.Array
) -> jax.Array:
    """Turn, enlarge and move a picture about its centre, by bilinear sampling.

    Args:
        picture: float32 (size, size).
        angle: Radians; positive turns the picture clockwise as it is seen.
        scale: Above 1 enlarges.
        shift: (2,), pixels down and to the right.
        mirror: -1 mirrors left and right, 1 does not.

    Returns:
        float32 (size, size), zero where nothing of the picture lies.
    """
    size = picture.shape[0]
    centre = (size - 1) / 2
    axis = jnp.arange(size) - centre
    rows = axis[:, None] - shift[0]
    columns = axis[None, :] - shift[1]
    cosine, sine = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    source_rows = cosine * rows - sine * columns + centre
    source_columns = mirror * (sine * rows + cosine * columns) + centre
    warped: jax.Array = jax.scipy.ndimage.map_coordinates(
        picture, [source_rows, source_columns], order=1, mode="constant"
    )
    return warped

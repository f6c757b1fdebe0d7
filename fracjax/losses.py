"""What training minimises.

What is known of a label is given as two weights, of its being negative and of its being positive:
``(w, 0)`` for a negative that counts ``w`` times, ``(0, 0)`` where nothing is known. All that is
done to labels (class weights, smoothing, mixing two pictures) is then linear in them.
"""

import jax
import jax.numpy as jnp

from fracjax.configs import Loss


def smooth(weights: jax.Array, smoothing: float) -> jax.Array:
    """Draw labels to one half, and leave how much each counts as it is.

    Args:
        weights: float32 (..., 2).
        smoothing: 0 leaves them, 1 makes them halves.

    Returns:
        float32 (..., 2).
    """
    total = weights.sum(axis=-1, keepdims=True)
    return (1 - smoothing) * weights + smoothing / 2 * total


def weighted_loss(logits: jax.Array, weights: jax.Array, config: Loss) -> jax.Array:
    """Measure how far logits are from what is known, over all outputs of a network.

    Each output is a question of its own, with a sigmoid. With class weights, both classes count
    alike however rare one is; the likelihoods learned are then those of such a population, not of
    the training set.

    Args:
        logits: float32 (batch, outputs).
        weights: float32 (batch, outputs, 2), of each label's being negative and positive.
        config: Cross entropy or focal loss, and the smoothing.

    Returns:
        A float32 scalar: the mean over the batch of the sum over the outputs.
    """
    negative, positive = jnp.moveaxis(smooth(weights, config.label_smoothing), -1, 0)
    if_negative, if_positive = jax.nn.softplus(logits), jax.nn.softplus(-logits)
    if config.kind == "focal":
        # Powers as exponentials, so that no gradient is 0 times infinity.
        power_of_likelihood = jnp.exp(-config.focal_gamma * if_positive)
        if_positive *= jnp.exp(-config.focal_gamma * if_negative)
        if_negative *= power_of_likelihood
    return jnp.mean(jnp.sum(negative * if_negative + positive * if_positive, axis=1))

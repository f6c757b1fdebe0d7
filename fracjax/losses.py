"""What training minimises."""

import jax
import jax.numpy as jnp
import optax


def weighted_binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, class_weights: tuple[float, float]
) -> jax.Array:
    """Cross entropy in which each class has its own weight, averaged over the batch.

    With the weights of :func:`balanced_class_weights`, as in the MURA paper (Rajpurkar et al.,
    arXiv:1712.06957, 3.1), both classes count alike however rare one is. The likelihoods learned
    are those of a population in which half are positive, not of the training set.

    Args:
        logits: float32 (batch,).
        labels: (batch,), 0 or 1.
        class_weights: Weight of a negative and of a positive.

    Returns:
        A float32 scalar.
    """
    weights = jnp.where(labels == 1, class_weights[1], class_weights[0])
    return jnp.mean(weights * optax.sigmoid_binary_cross_entropy(logits, labels))


def balanced_class_weights(negatives: int, positives: int) -> tuple[float, float]:
    """Weigh classes inversely to their number, with a mean weight of 1 over the training set.

    >>> balanced_class_weights(negatives=75, positives=25)
    (0.6666666666666666, 2.0)
    """
    total = negatives + positives
    return total / (2 * negatives), total / (2 * positives)

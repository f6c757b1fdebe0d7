"""The pure functions that a device runs: one training step, and scoring."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fracjax.augment import augment
from fracjax.configs import Config, Preprocess
from fracjax.configs import Optimizer as OptimizerConfig
from fracjax.losses import weighted_binary_cross_entropy
from fracjax.models import Network, Variables

if TYPE_CHECKING:
    from fracjax.data import Batch  # scoring needs none of what reads data sets


class TrainState(NamedTuple):
    """All that a step changes, and all that a checkpoint holds."""

    step: jax.Array
    variables: Variables
    optimizer: optax.OptState


def normalise(images: jax.Array, preprocess: Preprocess) -> jax.Array:
    """Give one grey channel to each channel of the network, less that channel's mean.

    Args:
        images: (batch, size, size); uint8 in 0..255 or float32 in 0..1.
        preprocess: The means.

    Returns:
        float32 (batch, size, size, 3).
    """
    levels = images.astype(jnp.float32) * (1.0 if images.dtype == jnp.uint8 else 255.0)
    return levels[..., None] - jnp.asarray(preprocess.channel_mean, jnp.float32)


def score(
    network: Network, preprocess: Preprocess, variables: Variables, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Score pictures (batch, size, size) as :func:`normalise` takes them.

    Returns:
        Likelihoods (batch,) in 0..1, and features (batch, :data:`fracjax.models.FEATURES`).
    """
    logits, features = network.logits_and_features(variables, normalise(images, preprocess))
    return jax.nn.sigmoid(logits[:, 0]), features


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rise linearly over the warm-up, then fall to zero along a cosine."""
    warmup = max(1, round(config.warmup * steps))
    return optax.schedules.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, warmup + 1)
    )


def create_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW on clipped gradients; biases and batch norm do not decay."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            weight_decay=config.weight_decay,
            mask=lambda parameters: {name: name.endswith("kernel") for name in parameters},
        ),
    )


def train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    config: Config,
    class_weights: tuple[float, float],
    state: TrainState,
    batch: "Batch",
) -> tuple[TrainState, jax.Array]:
    """Take one step. Randomness comes from the seed and the step alone.

    Returns:
        The new state and the batch's loss, a float32 scalar.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    labels = jnp.asarray(batch["label"])
    pictures = jnp.asarray(batch["image"], jnp.float32) / 255
    images = normalise(augment(pictures, key, config.augment), config.preprocess)
    parameters = {name: state.variables[name] for name in network.trainable}

    def loss_of(parameters: Variables) -> tuple[jax.Array, Variables]:
        logits, variables = network.train_logits(state.variables | parameters, images)
        loss = weighted_binary_cross_entropy(logits[:, 0], labels, class_weights)
        return loss, variables

    (loss, variables), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, parameters)
    parameters = optax.apply_updates(parameters, updates)
    return TrainState(state.step + 1, variables | parameters, optimizer_state), loss

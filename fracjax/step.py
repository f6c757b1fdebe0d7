"""The pure functions that a device runs: one training step, and scoring."""

from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax
from jax import lax
from numpy.typing import ArrayLike

from fracjax.augment import augment, mixup
from fracjax.configs import Config, Preprocess
from fracjax.configs import Optimizer as OptimizerConfig
from fracjax.losses import weighted_loss
from fracjax.models import PARTS, Network, Variables

NEVER = -1
"""In :class:`Totals`: no such step."""


class Batch(TypedDict):
    """What a step learns from, in parts that are computed one after the other."""

    image: ArrayLike
    """uint8 (parts, rows, size, size) grey levels: the network's input, rounded to 8 bits."""
    weights: ArrayLike
    """float32 (parts, rows, outputs, 2), as :mod:`fracjax.losses` takes them."""


class Totals(NamedTuple):
    """What has happened since somebody looked."""

    loss: jax.Array
    """float32, the sum of the steps' losses."""
    gradient_norm: jax.Array
    """float32, the sum of the gradients' global norms, before clipping."""
    steps: jax.Array
    """int32, how many steps that were."""
    broken: jax.Array
    """int32, the first step whose loss or gradient was not finite, or :data:`NEVER`."""


class TrainState(NamedTuple):
    """All that a step changes, and all that a checkpoint holds of it."""

    step: jax.Array
    variables: Variables
    average: Variables
    """The moving average of the variables; empty where none is kept."""
    optimizer: optax.OptState
    totals: Totals


def normalise(images: jax.Array, preprocess: Preprocess) -> jax.Array:
    """Give one grey channel to each channel of the network, as that channel is normalised.

    Args:
        images: (batch, size, size); uint8 in 0..255 or float32 in 0..1.
        preprocess: Mean and standard deviation of each channel, in grey levels.

    Returns:
        float32 (batch, size, size, 3).
    """
    levels = images.astype(jnp.float32) * (1.0 if images.dtype == jnp.uint8 else 255.0)
    centred = levels[..., None] - jnp.asarray(preprocess.channel_mean, jnp.float32)
    return centred / jnp.asarray(preprocess.channel_std, jnp.float32)


def score(
    network: Network, preprocess: Preprocess, variables: Variables, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Score pictures (batch, size, size) as :func:`normalise` takes them.

    Returns:
        Likelihoods (batch, outputs) in 0..1, and features (batch, ``network.features``).
    """
    logits, features = network.logits_and_features(variables, normalise(images, preprocess))
    return jax.nn.sigmoid(logits), features


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rise linearly over the warm-up, then fall to zero along a cosine."""
    warmup = max(1, round(config.warmup * steps))
    return optax.schedules.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, warmup + 1)
    )


def create_optimizer(
    config: OptimizerConfig, network: Network, steps: int
) -> optax.GradientTransformation:
    """Make AdamW or SGD on clipped gradients; biases and batch norm do not decay."""
    direction = (
        optax.scale_by_adam()
        if config.algorithm == "adamw"
        else optax.trace(config.momentum, nesterov=True)
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        direction,
        optax.add_decayed_weights(
            config.weight_decay,
            mask=lambda parameters: {name: name.endswith("kernel") for name in parameters},
        ),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
        _scale_by_part(config.layer_decay, network),
    )


def begin(
    network: Network,
    optimizer: optax.GradientTransformation,
    variables: Variables,
    *,
    keeps_average: bool,
) -> TrainState:
    """Make the state before the first step."""
    parameters = {name: variables[name] for name in network.trainable}
    average = dict(variables) if keeps_average else {}
    return TrainState(
        jnp.zeros((), jnp.int32), variables, average, optimizer.init(parameters), no_totals()
    )


def no_totals() -> Totals:
    """Make the totals of no steps."""
    zero = jnp.zeros((), jnp.float32)
    return Totals(zero, zero, jnp.zeros((), jnp.int32), jnp.full((), NEVER, jnp.int32))


def train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    config: Config,
    state: TrainState,
    batch: Any,
    resident: Any,
    *,
    axis_name: str | None = None,
) -> TrainState:
    """Take one step. Randomness comes from the seed, the step and the place in the batch alone.

    Args:
        network: Its batch norm averages over ``axis_name``.
        optimizer: Of :func:`create_optimizer`.
        config: The run.
        state: Before the step.
        batch: A :class:`Batch`; or, where the images are on the device already, ``index`` int32
            (parts, rows) of them.
        resident: Empty; or all images and weights, as a batch without the axis of parts.
        axis_name: Under ``pmap``, the axis of the devices, each of which has equally many rows.

    Returns:
        The state after the step.
    """
    if resident:
        batch = jax.tree.map(lambda array: array[batch["index"]], resident)
    parts, rows = batch["image"].shape[:2]
    devices, device = (lax.axis_size(axis_name), lax.axis_index(axis_name)) if axis_name else (1, 0)
    step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    parameters = {name: state.variables[name] for name in network.trainable}

    def loss_of(
        parameters: Variables,
        variables: Variables,
        images: jax.Array,
        weights: jax.Array,
        part: jax.Array | int,
    ) -> tuple[jax.Array, Variables]:
        # The place in the whole batch: the same whatever the number of devices or processes.
        places = (part * devices + device) * rows + jnp.arange(rows)
        keys = jax.vmap(lambda place: jax.random.fold_in(step_key, place))(places)
        changing, dropping = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        pictures = augment(images.astype(jnp.float32) / 255, changing, config.augment)
        if config.augment.mixup > 0:
            pictures, weights = mixup(pictures, weights, changing, config.augment)
        normalised = normalise(pictures, config.preprocess)
        logits, variables = network.train_logits(variables | parameters, normalised, dropping)
        return weighted_loss(logits, weights, config.loss), variables

    differentiate = jax.value_and_grad(loss_of, has_aux=True)

    def add_part(
        sums: tuple[jax.Array, Variables, Variables], part: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, Variables, Variables], None]:
        loss, gradients, variables = sums
        (more_loss, variables), more = differentiate(parameters, variables, *part)
        return (loss + more_loss, jax.tree.map(jnp.add, gradients, more), variables), None

    images, weights = jnp.asarray(batch["image"]), jnp.asarray(batch["weights"])
    if parts == 1:
        (loss, variables), gradients = differentiate(
            parameters, state.variables, images[0], weights[0], 0
        )
    else:
        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters), state.variables)
        (loss, gradients, variables), _ = lax.scan(
            add_part, nothing, (images, weights, jnp.arange(parts))
        )
        loss, gradients = jax.tree.map(lambda total: total / parts, (loss, gradients))
    if axis_name:
        loss, gradients = lax.pmean((loss, gradients), axis_name)

    updates, optimizer_state = optimizer.update(gradients, state.optimizer, parameters)
    variables = variables | optax.apply_updates(parameters, updates)
    # Few steps keep less, or the average would be what it began with for long.
    kept = jnp.minimum(config.optimizer.average, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(
        {name: variables[name] for name in state.average}, state.average, 1 - kept
    )
    totals = _add(state.totals, state.step, loss, optax.tree.norm(gradients))
    return TrainState(state.step + 1, variables, average, optimizer_state, totals)


def _add(totals: Totals, step: jax.Array, loss: jax.Array, gradient_norm: jax.Array) -> Totals:
    is_broken = ~(jnp.isfinite(loss) & jnp.isfinite(gradient_norm))
    return Totals(
        totals.loss + loss,
        totals.gradient_norm + gradient_norm,
        totals.steps + 1,
        jnp.where((totals.broken == NEVER) & is_broken, step, totals.broken),
    )


def _scale_by_part(decay: float, network: Network) -> optax.GradientTransformation:
    """Slow each part of a network down against the one after it."""

    def scale(updates: Variables, _: Any = None) -> Variables:
        return {
            name: update * decay ** (PARTS - 1 - network.part_of(name))
            for name, update in updates.items()
        }

    return optax.identity() if decay == 1 else optax.stateless(scale)

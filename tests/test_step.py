"""One training step: what it changes, what it must not, and that it learns."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fracjax import step
from fracjax.configs import Augment, Config, Model, Optimizer, Preprocess
from fracjax.models import Network

NETWORK = Network(Model("resnet14"))

NO_AUGMENT = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)

CONFIG = Config(
    name="step",
    preprocess=Preprocess(image_size=32),
    model=Model("resnet14"),
    augment=NO_AUGMENT,
    optimizer=Optimizer(learning_rate=1e-3, warmup=0.1, frozen_stages=2),
)


def learnable_batch(n, parts=1):
    """Noise, with a bright patch in every second picture, which is positive."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 128, (n, 32, 32)).astype(np.uint8)
    image[::2, 8:24, 8:24] = 240
    weights = np.float32([[[0, 1]], [[1, 0]]] * (n // 2))
    return {
        "image": image.reshape(parts, n // parts, 32, 32),
        "weights": weights.reshape(parts, n // parts, 1, 2),
    }


def take_steps(config, variables, batch, steps=1, resident=None):
    """Take steps on one batch; the state before, the state after, and the losses."""
    network = Network(
        config.model,
        frozen_stages=config.optimizer.frozen_stages,
        dtype=config.optimizer.precision,
    )
    optimizer = step.create_optimizer(config.optimizer, network, steps=10)
    keeps_average = config.optimizer.average > 0
    state = step.begin(network, optimizer, variables, keeps_average=keeps_average)
    take = jax.jit(functools.partial(step.train_step, network, optimizer, config))
    before, losses = state, []
    for _ in range(steps):
        state = take(state, batch, resident or {})
        losses.append(float(state.totals.loss) - sum(losses))
    return before, jax.device_get(state), losses


@pytest.fixture(scope="module")
def run(tiny_variables):
    """Take ten steps on one batch."""
    return take_steps(CONFIG, tiny_variables, learnable_batch(8), steps=10)


def test_the_loss_falls_on_a_batch_that_can_be_learned(run):
    _, _, losses = run
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.3 * losses[0]


def test_frozen_parts_stay_bit_identical_and_all_others_change(run):
    before, after, _ = run
    assert int(after.step) == 10
    assert set(after.variables) == set(before.variables)
    for name, value in before.variables.items():
        is_frozen = name.startswith(("stem", "stages/0"))
        assert np.array_equal(after.variables[name], value) == is_frozen, name


def test_the_optimizer_holds_no_state_for_frozen_parts(run):
    before, _, _ = run
    held = {path for path, _ in jax.tree_util.tree_leaves_with_path(before.optimizer)}
    names = {key.key for path in held for key in path if isinstance(key, jax.tree_util.DictKey)}
    assert names == Network(CONFIG.model, frozen_stages=2).trainable


# Input


def test_bytes_and_floats_become_the_same_input():
    preprocess = Preprocess(image_size=32)
    levels = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    from_bytes = step.normalise(jnp.asarray(levels), preprocess)
    from_floats = step.normalise(jnp.asarray(levels, jnp.float32) / 255, preprocess)
    assert from_bytes.shape == (2, 32, 32, 3)
    assert from_bytes.dtype == jnp.float32
    np.testing.assert_allclose(from_bytes, from_floats, rtol=0, atol=1e-4)


def test_each_channel_is_divided_by_its_own_deviation():
    preprocess = Preprocess(
        image_size=32, channel_mean=(0.0, 55.0, 255.0), channel_std=(1.0, 2.0, 10.0)
    )
    white = step.normalise(jnp.full((1, 32, 32), 255, jnp.uint8), preprocess)
    np.testing.assert_array_equal(white[0, 0, 0], [255, 100, 0])


def test_each_channel_loses_its_own_mean():
    preprocess = Preprocess(image_size=32, channel_mean=(1.0, 20.0, 300.0))
    white = step.normalise(jnp.full((1, 32, 32), 255, jnp.uint8), preprocess)
    np.testing.assert_array_equal(white[0, 0, 0], [254, 235, -45])


def test_score_is_one_likelihood_and_one_row_of_features_a_picture(tiny_variables):
    network = Network(CONFIG.model)
    score = functools.partial(step.score, network, CONFIG.preprocess, tiny_variables)
    images = learnable_batch(4)["image"][0]
    likelihoods, features = score(jnp.asarray(images))
    assert likelihoods.shape == (4, 1)
    assert features.shape == (4, network.features)
    assert ((likelihoods > 0) & (likelihoods < 1)).all()
    for one, other in zip((likelihoods, features), score(images / np.float32(255)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert len(set(np.asarray(likelihoods)[:, 0].round(6).tolist())) == 4


# Optimizer


def test_the_learning_rate_rises_then_falls_to_zero():
    schedule = step.learning_rate(Optimizer(learning_rate=0.5, warmup=0.2), steps=50)
    rates = np.array([schedule(i) for i in range(51)])
    assert rates[0] == 0
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.5, 11), rtol=1e-6)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[30] == pytest.approx(0.25)  # half-way down the cosine
    assert rates[50] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_has_a_learning_rate(steps):
    schedule = step.learning_rate(Optimizer(warmup=0), steps)
    assert np.isfinite([schedule(i) for i in range(steps)]).all()


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_only_kernels_decay(algorithm):
    config = Optimizer(algorithm, learning_rate=0.1, warmup=0, weight_decay=0.5)
    optimizer = step.create_optimizer(config, NETWORK, steps=100)
    parameters = {
        name: jnp.ones(2) for name in ("conv1/kernel", "conv1/bias", "norm1/scale", "norm1/bias")
    }
    state = optimizer.init(parameters)
    for _ in range(2):  # the rate of the first step is zero
        updates, state = optimizer.update(
            jax.tree.map(jnp.zeros_like, parameters), state, parameters
        )
        parameters = optax.apply_updates(parameters, updates)
    np.testing.assert_allclose(parameters.pop("conv1/kernel"), 1 - 0.1 * 0.5, rtol=1e-5)
    assert all((value == 1).all() for value in parameters.values())


def test_large_gradients_are_clipped_to_their_norm():
    config = Optimizer(learning_rate=1.0, warmup=0, weight_decay=0, clip_norm=1.0)
    optimizer = step.create_optimizer(config, NETWORK, steps=100)
    parameters = {"a/bias": jnp.zeros(2)}

    def second_moment(gradient):
        _, state = optimizer.update({"a/bias": gradient}, optimizer.init(parameters), parameters)
        return state[1].nu["a/bias"]

    np.testing.assert_allclose(
        second_moment(jnp.array([300.0, 400.0])), second_moment(jnp.array([0.6, 0.8])), rtol=1e-5
    )


def moved(config, gradients, steps=1):
    """How far each variable moves under the same gradients, with a learning rate of 1."""
    optimizer = step.create_optimizer(config, NETWORK, steps=100)
    zeros = {name: jnp.zeros_like(value) for name, value in gradients.items()}
    parameters, state = zeros, optimizer.init(zeros)
    for _ in range(1 + steps):  # the rate of the first step is zero
        updates, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


def test_sgd_follows_nesterov():
    config = Optimizer("sgd", learning_rate=1.0, warmup=0, weight_decay=0, momentum=0.5)
    # The trace is 1, 1.5; of the second step, which alone moves, the direction is 1 + 0.5 * 1.5.
    assert float(moved(config, {"head/bias": jnp.array(1.0)})["head/bias"]) == pytest.approx(-1.75)


def test_earlier_parts_learn_the_slower():
    config = Optimizer(learning_rate=1.0, warmup=0, weight_decay=0, layer_decay=0.5, clip_norm=1e9)
    names = ["stem/kernel", "stages/0/0/conv1/bias", "stages/3/0/conv1/bias", "head/bias"]
    distances = moved(config, {name: jnp.array(1.0) for name in names})
    ratios = [float(distances[name] / distances["head/bias"]) for name in names]
    np.testing.assert_allclose(ratios, [1 / 32, 1 / 16, 1 / 2, 1], rtol=1e-5)


# What a step may be asked for besides


def close(one, other, tolerance=1e-4):
    for name, value in one.variables.items():
        np.testing.assert_allclose(value, other.variables[name], rtol=0, atol=tolerance)


def test_images_on_the_device_are_learned_from_as_any(tiny_variables):
    batch = learnable_batch(8)
    places = np.random.default_rng(1).permutation(8)
    resident = {name: array[0][np.argsort(places)] for name, array in batch.items()}
    _, streamed, _ = take_steps(CONFIG, tiny_variables, batch, steps=3)
    _, gathered, _ = take_steps(
        CONFIG, tiny_variables, {"index": places[None].astype(np.int32)}, 3, resident
    )
    for name, value in streamed.variables.items():
        np.testing.assert_array_equal(value, gathered.variables[name])


def test_a_batch_in_parts_gives_the_mean_of_their_gradients(tiny_variables):
    """Batch norm sees each part alone; where both parts are alike, nothing else is different."""
    half = learnable_batch(4)
    twice = {name: np.concatenate([array, array]) for name, array in half.items()}
    frozen = replace(CONFIG, optimizer=replace(CONFIG.optimizer, frozen_stages=5))
    for config in (CONFIG, frozen):
        _, once, loss = take_steps(config, tiny_variables, half)
        _, in_parts, loss_in_parts = take_steps(config, tiny_variables, twice)
        assert loss_in_parts == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(
            in_parts.totals.gradient_norm, once.totals.gradient_norm, rtol=1e-3
        )


def test_the_average_follows_the_variables(tiny_variables):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, average=0.75))
    batch = learnable_batch(8)
    states = [take_steps(config, tiny_variables, batch, steps)[1] for steps in (1, 2, 3)]
    expected = {name: np.asarray(value) for name, value in tiny_variables.items()}
    for kept, state in zip((1 / 10, 2 / 11, 3 / 12), states, strict=True):
        expected = {
            name: kept * value + (1 - kept) * state.variables[name]
            for name, value in expected.items()
        }
    assert set(states[-1].average) == set(states[-1].variables)
    for name, value in states[-1].average.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


def test_the_average_keeps_no_more_than_it_is_told_to(tiny_variables):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, average=0.15))
    batch = learnable_batch(8)
    before, after = (take_steps(config, tiny_variables, batch, steps)[1] for steps in (3, 4))
    for name, value in after.average.items():
        expected = 0.15 * before.average[name] + 0.85 * after.variables[name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_half_precision_keeps_what_lasts_in_single(tiny_variables):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, precision="bfloat16"))
    _, half, losses = take_steps(config, tiny_variables, learnable_batch(8), steps=10)
    assert {value.dtype for value in half.variables.values()} == {np.dtype(np.float32)}
    assert half.totals.loss.dtype == np.float32
    assert losses[-1] < 0.3 * losses[0]


def test_the_first_step_that_breaks_is_remembered(tiny_variables):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, warmup=0, learning_rate=1e30))
    _, after, _ = take_steps(config, tiny_variables, learnable_batch(8), steps=6)
    # The rate of the first step is zero, so the second moves, and the third sees what came of it.
    assert int(after.totals.broken) == 2
    assert int(after.totals.steps) == 6


def test_mixed_pictures_are_learned_from_with_mixed_labels(tiny_variables):
    config = replace(CONFIG, augment=replace(NO_AUGMENT, mixup=0.4))
    _, _, losses = take_steps(config, tiny_variables, learnable_batch(8), steps=10)
    _, _, unmixed = take_steps(CONFIG, tiny_variables, learnable_batch(8), steps=10)
    assert np.isfinite(losses).all()
    assert losses[-1] > unmixed[-1]  # a mixture of both labels cannot be told for sure

"""One training step: what it changes, what it must not, and that it learns."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fracjax import step
from fracjax.configs import Augment, Config, Model, Optimizer, Preprocess
from fracjax.models import FEATURES, Network

NO_AUGMENT = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)

CONFIG = Config(
    name="step",
    preprocess=Preprocess(image_size=32),
    model=Model("resnet14"),
    augment=NO_AUGMENT,
    optimizer=Optimizer(learning_rate=1e-3, warmup=0.1, frozen_stages=2),
)


def learnable_batch(n):
    """Noise, with a bright patch in every second picture, which is positive."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 128, (n, 32, 32)).astype(np.uint8)
    image[::2, 8:24, 8:24] = 240
    return {"image": image, "label": (np.arange(n) % 2 == 0).astype(np.int32)}


@pytest.fixture(scope="module")
def run(tiny_variables):
    """Take ten steps on one batch; the state before, the state after, and the losses."""
    network = Network(CONFIG.model, frozen_stages=CONFIG.optimizer.frozen_stages)
    optimizer = step.create_optimizer(CONFIG.optimizer, steps=10)
    parameters = {name: tiny_variables[name] for name in network.trainable}
    state = step.TrainState(jnp.zeros((), jnp.int32), tiny_variables, optimizer.init(parameters))
    take = jax.jit(functools.partial(step.train_step, network, optimizer, CONFIG, (1.0, 1.0)))
    before, losses = state, []
    for _ in range(10):
        state, loss = take(state, learnable_batch(8))
        losses.append(float(loss))
    return before, jax.device_get(state), losses


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


def test_each_channel_loses_its_own_mean():
    preprocess = Preprocess(image_size=32, channel_mean=(1.0, 20.0, 300.0))
    white = step.normalise(jnp.full((1, 32, 32), 255, jnp.uint8), preprocess)
    np.testing.assert_array_equal(white[0, 0, 0], [254, 235, -45])


def test_score_is_one_likelihood_and_one_row_of_features_a_picture(tiny_variables):
    network = Network(CONFIG.model)
    score = functools.partial(step.score, network, CONFIG.preprocess, tiny_variables)
    images = learnable_batch(4)["image"]
    likelihoods, features = score(jnp.asarray(images))
    assert likelihoods.shape == (4,)
    assert features.shape == (4, FEATURES)
    assert ((likelihoods > 0) & (likelihoods < 1)).all()
    for one, other in zip((likelihoods, features), score(images / np.float32(255)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert len(set(np.asarray(likelihoods).round(6).tolist())) == 4


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


def test_only_kernels_decay():
    config = Optimizer(learning_rate=0.1, warmup=0, weight_decay=0.5)
    optimizer = step.create_optimizer(config, steps=100)
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
    optimizer = step.create_optimizer(config, steps=100)
    parameters = {"a/bias": jnp.zeros(2)}

    def second_moment(gradient):
        _, state = optimizer.update({"a/bias": gradient}, optimizer.init(parameters), parameters)
        return state[1][0].nu["a/bias"]

    np.testing.assert_allclose(
        second_moment(jnp.array([300.0, 400.0])), second_moment(jnp.array([0.6, 0.8])), rtol=1e-5
    )


# Devices

CURVE = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
sys.path.insert(0, "tests")
from fracjax import parallel, step
from fracjax.models import FEATURES, Network
from test_step import DEVICES_CONFIG as config, learnable_batch

def curve(mesh):
    network = Network(config.model)
    optimizer = step.create_optimizer(config.optimizer, steps=6)
    variables = jax.jit(network.init, static_argnums=0)(0)
    parameters = {name: variables[name] for name in network.trainable}
    state = step.TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(parameters))
    state = jax.device_put(state, parallel.replicated(mesh))
    take = jax.jit(
        functools.partial(step.train_step, network, optimizer, config, (1.0, 1.0)),
        in_shardings=(parallel.replicated(mesh), parallel.sharded(mesh)),
        out_shardings=parallel.replicated(mesh),
    )
    losses = []
    for _ in range(6):
        state, loss = take(state, jax.device_put(learnable_batch(16), parallel.sharded(mesh)))
        losses.append(float(loss))
    return losses

one = jax.sharding.Mesh(jax.devices()[:1], ("data",))
print(json.dumps([parallel.data_mesh().size, curve(parallel.data_mesh()), curve(one)]))
"""

DEVICES_CONFIG = replace(
    CONFIG, augment=Augment(), optimizer=Optimizer(learning_rate=2e-5, warmup=0.1)
)


def test_eight_devices_learn_as_one_does(run_python):
    done = run_python("-c", CURVE, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0, done.stderr
    devices, eight, one = json.loads(done.stdout.splitlines()[-1])
    assert devices == 8
    assert len(set(one)) == 6
    np.testing.assert_allclose(eight, one, rtol=1e-4)

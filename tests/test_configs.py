"""Recipes and their overrides."""

import doctest
from dataclasses import replace

import pytest

from fracjax import configs, data, live
from fracjax.configs import Augment, Config, Data, Optimizer, Preprocess, recipe
from fracjax.errors import UsageError
from fracjax.record import journal


@pytest.mark.parametrize("name", configs.RECIPES)
def test_a_recipe_bears_its_own_name(name):
    assert recipe(name) == configs.RECIPES[name]()
    assert recipe(name).name == name
    assert configs.RECIPES[name].__doc__


def test_overrides_take_the_type_of_their_field():
    config = recipe(
        "fracatlas_resnet50",
        [
            "optimizer.epochs=3",
            "optimizer.learning_rate=1e-3",
            "model.name=resnet14",
            "model.strides=v1.5",
            "data.train=fold_1,fold_2",
            "data.valid=fold_4",
            "preprocess.channel_mean=1,2.5,3",
            "augment.flip=0",
            "seed=7",
        ],
    )
    base = recipe("fracatlas_resnet50")
    assert config == replace(
        base,
        optimizer=replace(base.optimizer, epochs=3, learning_rate=1e-3),
        model=configs.Model("resnet14", "v1.5"),
        data=replace(base.data, train=("fold_1", "fold_2"), valid=("fold_4",)),
        preprocess=replace(base.preprocess, channel_mean=(1.0, 2.5, 3.0)),
        augment=replace(base.augment, flip=0.0),
        seed=7,
    )
    assert type(config.optimizer.epochs) is int
    assert type(config.augment.flip) is float


def test_the_last_of_two_overrides_counts():
    assert recipe("mura_resnet50", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.epochs", ("'optimizer.epochs'", "field=value")),
        ("optimizer.epoch=3", ("'optimizer.epoch=3'", "optimizer.epochs")),
        ("optimiser.epochs=3", ("optimizer.epochs",)),
        ("optimizer.epochs.more=3", ("optimizer.epochs",)),
        ("optimizer=3", ("section", "optimizer.epochs")),
        ("=3", ("field=value",)),
        ("optimizer.epochs=2.5", ("optimizer.epochs", "2.5", "integer")),
        ("optimizer.epochs=many", ("optimizer.epochs", "many")),
        ("optimizer.epochs=0", ("optimizer.epochs=0", "1 or more")),
        ("optimizer.batch_size=0", ("optimizer.batch_size=0", "1 or more")),
        ("optimizer.learning_rate=0", ("optimizer.learning_rate", "above 0")),
        ("optimizer.learning_rate=nan", ("optimizer.learning_rate=nan", "a number")),
        ("optimizer.learning_rate=inf", ("optimizer.learning_rate=inf", "a number")),
        ("preprocess.channel_mean=1,nan,3", ("preprocess.channel_mean", "a number")),
        ("augment.rotation=-1", ("augment.rotation=-1", "0 or more")),
        ("augment.contrast=1.5", ("augment.contrast=1.5", "0 to 1")),
        ("optimizer.warmup=1", ("optimizer.warmup", "below 1")),
        ("optimizer.frozen_stages=6", ("optimizer.frozen_stages", "0 to 5")),
        ("preprocess.image_size=31", ("image size 31", "from 32 to 4096")),
        ("preprocess.image_size=5000", ("image size 5000", "from 32 to 4096")),
        ("preprocess.channel_mean=1,2", ("preprocess.channel_mean",)),
        ("model.name=vgg", ("model.name", "'vgg'", "resnet50")),
        ("model.strides=v2", ("model.strides", "v1.5")),
        ("data.name=chexpert", ("data.name", "'mura'")),
        ("data.valid=fold_1", ("data.valid=fold_1", "data.train lacks")),
        ("data.valid=fold_0,fold_0", ("data.valid=fold_0,fold_0", "each once")),
        ("data.train=", ("data.train=", "one split or more")),
        ("seed=x", ("seed", "'x'")),
        ("seed=-1", ("seed=-1",)),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override, words):
    with pytest.raises(UsageError) as refusal:
        recipe("fracatlas_resnet50", [override])
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=f"'resnet'.*{', '.join(configs.RECIPES)}"):
        recipe("resnet")


def test_sections_check_themselves_where_no_recipe_does():
    for make in (
        lambda: Preprocess(image_size=8),
        lambda: Optimizer(epochs=0),
        lambda: Data(valid=("fold_1",)),
        lambda: Config("negative", seed=-1),
        lambda: Augment(scale=1.0),
        lambda: Augment(flip=1.5),
    ):
        with pytest.raises(UsageError):
            make()


@pytest.mark.parametrize("module", [configs, data, journal, live])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0

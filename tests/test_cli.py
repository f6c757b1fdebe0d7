"""The commands ``predict``, ``prepare`` and ``train``: what they print, and what they refuse."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from fracjax import bundle
from fracjax.notice import NOTICE

THAWED = ("--set", "optimizer.frozen_stages=0")


@pytest.fixture(scope="module")
def fracjax(run_python):
    return lambda *arguments, **environment: run_python("-m", "fracjax", *arguments, **environment)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "no extension"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def refused(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fracjax: ")
    return lines[0]


def test_predict_says_what_the_number_is(fracjax, image, tiny_bundle):
    done = fracjax("predict", image, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stderr
    notice, answer, *_ = done.stdout.splitlines()
    assert notice == NOTICE
    assert 0 <= float(answer.split()[0]) <= 1
    assert "not calibrated" in answer
    assert "fracture" in answer
    assert "AUROC" in done.stdout


def test_predict_on_several_devices(fracjax, image, tiny_bundle):
    one = fracjax("predict", image, "--bundle", tiny_bundle)
    flags = "--xla_force_host_platform_device_count=8"
    eight = fracjax("predict", image, "--bundle", tiny_bundle, XLA_FLAGS=flags)
    assert eight.returncode == 0, eight.stderr
    assert eight.stdout == one.stdout


@pytest.mark.parametrize("what", ["missing", "text", "folder", "pipe", "empty"])
def test_predict_refuses(what, fracjax, tiny_bundle, tmp_path):
    path = tmp_path / what
    if what == "text":
        path.write_text("Dear colleague")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "empty":
        path.touch()
    assert str(path) in refused(fracjax("predict", path, "--bundle", tiny_bundle))


def test_predict_refuses_a_bundle_without_its_headline_figure(
    fracjax, image, tiny_bundle, tmp_path
):
    manifest = dataclasses.replace(bundle.load(tiny_bundle).manifest, figures={})
    weights, gate = (tiny_bundle / name for name in (bundle.WEIGHTS_NAME, bundle.GATE_NAME))
    bundle.write(tmp_path / "bundle", manifest, weights.read_bytes(), gate.read_bytes(), "card")
    assert bundle.HEADLINE in refused(fracjax("predict", image, "--bundle", tmp_path / "bundle"))


@pytest.mark.parametrize("where", ["a file", "/proc/fracjax"])
def test_directories_that_cannot_be_made(where, fracjax, data_dir, tmp_path):
    target = tmp_path / where
    if where == "a file":
        target.touch()
    small = ["--image-size", "32", "--set", "model.name=resnet14", *THAWED]
    small += ["--set", "optimizer.batch_size=4"]
    message = refused(fracjax("train", "--workdir", target, "--data-dir", data_dir, *small))
    assert str(target) in message
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--workdir", "W", "--image-size", "0"], "image size 0"),
        (["train", "--workdir", "W", "--config", "best"], "fracatlas_resnet50"),
        (["train", "--workdir", "W", "--set", "optimizer.epochs=many"], "optimizer.epochs"),
        (["train", "--workdir", "W", "--data-dir", "nowhere", *THAWED], "fracjax prepare"),
        (["train", "--workdir", "W", "--weights", "absent.safetensors"], "absent.safetensors"),
        (["prepare", "chexpert", "--archive-dir", "."], "frac_atlas"),
    ],
)
def test_bad_arguments_are_one_line(arguments, says, fracjax, tmp_path):
    arguments = [str(tmp_path / "W") if argument == "W" else argument for argument in arguments]
    assert says in refused(fracjax(*arguments))
    assert not (tmp_path / "W").exists()


def test_prepare_counts_its_splits_and_leaves_nothing_when_it_fails(fracjax, tmp_path):
    archive = "tfds_mura/mura/dummy_data"
    done = fracjax("prepare", "mura", "--archive-dir", archive, "--data-dir", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "train:" in done.stdout
    assert "valid:" in done.stdout
    failed = fracjax("prepare", "mura", "--archive-dir", tmp_path, "--data-dir", tmp_path / "none")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "none").exists()

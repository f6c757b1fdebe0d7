"""An exported model says in other programs what its bundle says, and says what it is."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest

import fracjax
from fracjax import bundle
from fracjax.cli import app
from fracjax.errors import BundleError, ExportError
from fracjax.export import writing
from fracjax.forward import probes
from fracjax.notice import NOTICE

RUN_ALONE = """
import sys
import jax
import numpy as np

model = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
likelihoods, features = model.call(np.load(sys.argv[2]))
np.save(sys.argv[3], np.asarray(likelihoods))
print("fracjax" in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tuned_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "exported"
    app(["export", str(tuned_bundle), "--out", str(folder)], standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((3, 64, 64), np.float32)


@pytest.fixture(scope="module")
def wanted(tuned_bundle, pictures):
    return fracjax.load(tuned_bundle, engine="xla").score(pictures).likelihoods


def test_the_graph_says_the_same_in_another_program(exported, pictures, wanted):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    likelihoods, features = session.run(None, {"pictures": pictures})
    np.testing.assert_allclose(likelihoods[:, 0], wanted, atol=1e-5)
    assert np.ptp(wanted) > 1e-3
    assert features.shape[0] == 3


def test_the_artifact_says_the_same_without_this_package(
    exported, pictures, wanted, run_python, tmp_path
):
    np.save(tmp_path / "in.npy", pictures)
    done = run_python(
        "-c", RUN_ALONE, exported / "model.jax", tmp_path / "in.npy", tmp_path / "out.npy"
    )
    assert done.stdout.split() == ["False"], done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy")[:, 0], wanted, atol=1e-5)


def test_what_stands_beside_says_what_the_model_is(exported, tuned_bundle):
    facts = json.loads((exported / "model.json").read_text())
    manifest = bundle.load(tuned_bundle).manifest
    assert (facts["notice"], facts["model_id"]) == (NOTICE, manifest.model_id)
    assert (facts["target"], facts["outputs"]) == ("fracture", ["fracture"])
    assert facts["calibration"]["method"] == manifest.calibration.method
    assert facts["operating_points"].keys() == manifest.operating_points.keys()
    assert len(facts["differences"]) == 3
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in exported.iterdir()
        if file.name != "model.json"
    }
    assert facts["sha256"] == digests
    assert digests.keys() == {"model.onnx", "model.jax", "gate.safetensors", "CARD.md"}


@pytest.mark.parametrize("place", range(len(writing.READERS)))
def test_what_a_reader_reads_otherwise_is_not_written(tiny_bundle, tmp_path, monkeypatch, place):
    name, reader, run = writing.READERS[place]

    def other(model, pictures):
        likelihoods, features = run(model, pictures)
        return likelihoods + np.float32(2e-4), features

    readers = list(writing.READERS)
    readers[place] = (name, reader, other)
    monkeypatch.setattr(writing, "READERS", tuple(readers))
    with pytest.raises(ExportError, match=f"{name} in {reader} does not say"):
        writing.write(bundle.load(tiny_bundle), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tiny_bundle, tmp_path):
    with pytest.raises(BundleError, match="exists already"):
        writing.write(bundle.load(tiny_bundle), tmp_path)


def test_the_known_pictures_are_those_of_the_bundles_preprocessing(tiny_bundle):
    preprocess = bundle.load(tiny_bundle).manifest.preprocess
    pictures = probes.pictures(preprocess)
    assert pictures.shape == (4, preprocess.image_size, preprocess.image_size)
    assert pictures.dtype == np.float32

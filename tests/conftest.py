"""What several tests lean on: the folder of real files, a small model, a small data set."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fracjax import bundle, gate, gate_fitting, tuning
from fracjax.card import render_card
from fracjax.configs import Augment, Config, Model, Optimizer, Preprocess
from fracjax.figure import Figure
from fracjax.metrics import Sample
from fracjax.models import Network

REPOSITORY = Path(__file__).parents[1]
ARCHIVES = {
    name: REPOSITORY / "tfds_mura" / name / "dummy_data"
    for name in ("frac_atlas", "mura", "grazpedwri_dx", "rsna_cervical_spine", "own_images")
}

BUILD_AND_READ = """
import json, sys
from pathlib import Path
from fracjax import data

for name, archive_dir in json.loads(sys.argv[2]).items():
    splits = data.prepare(name, Path(archive_dir), Path(sys.argv[1]))
    for split in splits:
        [example.pixels() for example in data.load(name, [split], Path(sys.argv[1]))]
print("tensorflow" in sys.modules)
"""


LONGEST_FIRST = (
    "test_durable.py",
    "test_train.py",
    "test_distributed.py",
    "test_sweep.py",
    "test_parallel.py",
    "test_import_weights.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, or one process is at them while the others wait."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def shared():
    """The folder of real radiographs, weights and DICOM files that the project does not ship."""
    folder = os.environ.get("FRACJAX_SHARED")
    if not folder:
        pytest.skip("FRACJAX_SHARED names no folder of real files")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile each program once in a session, however many tests and processes run it.

    Gives what other processes need in their environment for it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    settings = {
        "jax_compilation_cache_dir": str(folder / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    variables = {name.upper(): str(value) for name, value in settings.items()}
    variables["FRACJAX_CACHE_DIR"] = os.environ["FRACJAX_CACHE_DIR"] = str(folder / "compiled")
    return variables


@pytest.fixture(scope="session")
def run_python(compilation_cache):
    """Run our own interpreter in a process of its own; gives the finished process."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | compilation_cache | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, run_python):
    """The dummy archives, built and read by a process of their own, without TensorFlow."""
    data_dir = tmp_path_factory.mktemp("tfds")
    archives = {name: str(path) for name, path in ARCHIVES.items()}
    done = run_python("-c", BUILD_AND_READ, data_dir, json.dumps(archives))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False", "TensorFlow was imported"
    return data_dir


@pytest.fixture(scope="session")
def tiny_config():
    """A run of seconds: two epochs of 4 steps over the dummy FracAtlas, at 32 px."""
    return Config(
        name="tiny",
        preprocess=Preprocess(image_size=32),
        model=Model("resnet14"),
        augment=Augment(rotation=5, scale=0.05, shift=0.02, flip=0.5, contrast=0.1, gamma=0.1),
        optimizer=Optimizer(epochs=2, batch_size=4, learning_rate=1e-3),
    )


@pytest.fixture(scope="session")
def tiny_gate():
    """A gate that was fitted on noise, and takes no picture for a negative."""
    width = Network(Model("resnet14")).features
    features = np.random.default_rng(0).normal(0, 1, (300, width)).astype(np.float32)
    return gate_fitting.fit(features, features)._replace(offset=np.float32(-1e9))


@pytest.fixture(scope="session")
def tiny_manifest(tiny_gate):
    """Make the manifest of a resnet14 at 64 px for given weights."""

    def make(weights):
        digest = hashlib.sha256(weights).hexdigest()
        gate_digest = hashlib.sha256(bundle.encode_gate(tiny_gate)).hexdigest()
        config = Config(name="tiny", preprocess=Preprocess(image_size=64), model=Model("resnet14"))
        return bundle.Manifest(
            format=bundle.FORMAT,
            version=bundle.VERSION,
            model_id=f"tiny-{digest[:12]}",
            target="fracture",
            scope=("hand", "leg"),
            model=config.model,
            preprocess=config.preprocess,
            weights_sha256=digest,
            gate=gate.Facts(
                method=gate_fitting.METHOD,
                stage=Network(config.model).feature_stage,
                quantile=gate_fitting.QUANTILE,
                threshold=1e6,
                images=300,
                sha256=gate_digest,
                false_reject={"validation": gate.rate(np.arange(4) < 1)},
                false_accept={},
            ),
            training=config,
            provenance=bundle.Provenance("frac_atlas/1.2.0", (), 18, 8, 11, "", ("none",), ""),
            figures={"auroc_study": Figure(0.5, 0.25, 0.75, n=4, positives=2, groups=3)},
            software={"fracjax": "0.1.0"},
            created="2026-11-23",
        )

    return make


@pytest.fixture(scope="session")
def tiny_variables():
    """Random weights of a resnet14 as host arrays; its logits are small, so its scores differ."""
    variables = jax.device_get(Network(Model("resnet14")).init(0))
    return variables | {"head/kernel": variables["head/kernel"] / 100}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_manifest, tiny_variables, tiny_gate):
    """A bundle with random weights: resnet14 at 64 px, for fracture; its gate lets all pass."""
    directory = tmp_path_factory.mktemp("bundles") / "tiny"
    weights = bundle.encode_weights(tiny_variables)
    manifest = tiny_manifest(weights)
    encoded = bundle.encode_gate(tiny_gate)
    bundle.write(directory, manifest, weights, encoded, render_card(manifest))
    return directory


@pytest.fixture(scope="session")
def tuned_bundle(tmp_path_factory, tiny_manifest, tiny_variables, tiny_gate):
    """The tiny bundle with operating points and a calibration, fitted on noise."""
    weights = bundle.encode_weights(tiny_variables)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = 1 / (1 + np.exp(-rng.normal(labels - 0.5, 1)))
    sample = Sample.of(labels, scores, np.arange(200))
    fields = {
        "calibration": tuning.calibration(sample, "tuning digest"),
        "operating_points": tuning.operating_points(sample),
    }
    manifest = tiny_manifest(weights)
    manifest = type(manifest)(
        **{name: getattr(manifest, name) for name in manifest.__slots__} | fields
    )
    directory = tmp_path_factory.mktemp("tuned") / "bundle"
    bundle.write(directory, manifest, weights, bundle.encode_gate(tiny_gate), render_card(manifest))
    return directory

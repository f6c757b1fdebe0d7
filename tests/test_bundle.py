"""Model bundles: what is written comes back, and what is damaged is refused."""

import hashlib
import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

import fracjax as fj
from fracjax import bundle, configs
from fracjax.errors import BundleError
from fracjax.gate import UNFITTED

WEIGHTS, GATE, MANIFEST = bundle.WEIGHTS_NAME, bundle.GATE_NAME, bundle.MANIFEST_NAME


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    """A bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def test_the_recipe_is_that_of_the_model_that_ships():
    assert bundle.load().manifest.training == configs.recipe("fracatlas_resnet50")


def refusal(directory, action=bundle.load):
    """The one line in which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        action(directory)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "give" in message or "copy" in message or "reads" in message, "no way out"
    return message


def rewrite(directory, fields):
    """Write a manifest whose digest is right."""
    fields.pop("sha256", None)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    sha256 = hashlib.sha256(canonical.encode()).hexdigest()
    (directory / MANIFEST).write_text(json.dumps(fields | {"sha256": sha256}))


def edit(directory, **fields):
    rewrite(directory, json.loads((directory / MANIFEST).read_text()) | fields)


def replace_weights(directory, data):
    """Put in other weights, with a manifest that agrees."""
    (directory / WEIGHTS).write_bytes(data)
    edit(directory, weights_sha256=hashlib.sha256(data).hexdigest())


def replace_gate(directory, data):
    """Put in another gate, with a manifest that agrees."""
    (directory / GATE).write_bytes(data)
    gate = json.loads((directory / MANIFEST).read_text())["gate"]
    edit(directory, gate=gate | {"sha256": hashlib.sha256(data).hexdigest()})


# Round trip


def test_what_is_written_comes_back(tiny_bundle, tiny_manifest, tiny_variables, tiny_gate):
    loaded = bundle.load(tiny_bundle)
    weights = (tiny_bundle / WEIGHTS).read_bytes()
    assert loaded.manifest == tiny_manifest(weights)
    assert set(loaded.variables) == set(tiny_variables)
    for name, value in loaded.variables.items():
        assert value.dtype == np.float32
        tolerance = 2**-11 if name.endswith("kernel") else 0  # half precision
        np.testing.assert_allclose(value, tiny_variables[name], rtol=tolerance, atol=1e-7)
    for stored, array in zip(loaded.gate, tiny_gate, strict=True):
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, array)
    names = {path.name for path in tiny_bundle.iterdir()}
    assert names == {WEIGHTS, GATE, MANIFEST, bundle.CARD_NAME}


def test_the_card_says_what_the_bundle_is(tiny_bundle):
    manifest = bundle.load(tiny_bundle).manifest
    card = (tiny_bundle / bundle.CARD_NAME).read_text()
    assert "Not a medical device" in card
    figures = (manifest.figures["auroc_study"], manifest.gate.false_reject["validation"])
    for fact in (manifest.model_id, manifest.weights_sha256, *map(str, figures), "hand, leg"):
        assert fact in card


def test_kernels_are_stored_in_half_precision_and_nothing_else(tiny_variables):
    kernels = sum(value.size for name, value in tiny_variables.items() if name.endswith("kernel"))
    rest = sum(value.size for value in tiny_variables.values()) - kernels
    size = len(bundle.encode_weights(tiny_variables))
    assert 0 < size - (2 * kernels + 4 * rest) < 20_000  # the header


def test_the_order_of_an_array_in_memory_changes_nothing():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    variables = {"a/kernel": np.asfortranarray(array), "a/bias": array.T}
    stored = bundle.decode_weights(bundle.encode_weights(variables))
    for name, value in variables.items():
        np.testing.assert_array_equal(stored[name], value)


def test_storing_twice_changes_nothing(tiny_variables):
    once = bundle.encode_weights(tiny_variables)
    assert bundle.encode_weights(bundle.decode_weights(once)) == once


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_kernel_that_half_precision_cannot_hold_is_refused(value):
    with np.errstate(over="ignore"), pytest.raises(BundleError, match="conv1/kernel"):
        bundle.encode_weights({"conv1/kernel": np.full((2, 2), value, np.float32)})


def test_a_statistic_may_be_large_but_not_endless():
    large = {"norm1/var": np.full(2, 1e6, np.float32)}
    assert (bundle.decode_weights(bundle.encode_weights(large))["norm1/var"] == 1e6).all()
    with pytest.raises(BundleError, match="norm1/var"):
        bundle.encode_weights({"norm1/var": np.full(2, np.nan, np.float32)})


def test_the_directory_of_a_run_stands_for_its_bundle(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "run/bundle")
    assert bundle.load(tmp_path / "run").manifest == bundle.load(tiny_bundle).manifest


def test_a_bundle_scores(tiny_bundle):
    scorer = fj.load(tiny_bundle, batch_size=2)
    pictures = np.random.default_rng(0).random((3, 64, 64), np.float32)
    scores = scorer.score(pictures)
    for array, kind in (
        (scores.likelihoods, np.float32),
        (scores.distances, np.float32),
        (scores.familiar, np.bool_),
    ):
        assert array.shape == (3,)
        assert array.dtype == kind
    assert ((scores.likelihoods > 0) & (scores.likelihoods < 1)).all()


# Writing


def test_nothing_is_overwritten(tiny_bundle, tiny_manifest):
    before = (tiny_bundle / WEIGHTS).read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        bundle.write(tiny_bundle, tiny_manifest(b"other"), b"other", b"gate", "card")
    assert (tiny_bundle / WEIGHTS).read_bytes() == before


def test_a_write_that_is_interrupted_leaves_no_bundle(copy, tiny_manifest, tmp_path, monkeypatch):
    weights = (copy / WEIGHTS).read_bytes()
    gate = (copy / GATE).read_bytes()
    manifest = tiny_manifest(weights)
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "CARD_NAME", "no/such/folder/CARD.md")
        with pytest.raises(FileNotFoundError):
            bundle.write(tmp_path / "new", manifest, weights, gate, "card")
    assert not (tmp_path / "new").exists()
    bundle.write(tmp_path / "new", manifest, weights, gate, "card")  # in a process of the same id
    assert bundle.load(tmp_path / "new").manifest == manifest


# Damage


def test_a_missing_directory(tmp_path):
    assert str(tmp_path / "absent") in refusal(tmp_path / "absent")


@pytest.mark.parametrize("name", [WEIGHTS, GATE, MANIFEST])
def test_a_missing_file(name, copy):
    (copy / name).unlink()
    assert name in refusal(copy)


@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize("name", [WEIGHTS, GATE])
def test_a_flipped_bit_in_the_arrays(name, place, copy):
    data = bytearray((copy / name).read_bytes())
    data[place] ^= 1
    (copy / name).write_bytes(data)
    message = refusal(copy)
    assert name in message
    assert "sha256" in message


def test_the_gate_of_another_bundle(copy, tiny_gate):
    other = tiny_gate._replace(mean=tiny_gate.mean + 1)
    (copy / GATE).write_bytes(bundle.encode_gate(other))
    assert GATE in refusal(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.75", "0.95"), ('"fracture"', '"abnormality"'), ("1000000.0", "2000000.0")],
    ids=["figure", "target", "threshold"],
)
def test_a_manifest_that_was_edited(old, new, copy):
    text = (copy / MANIFEST).read_text()
    assert old in text
    (copy / MANIFEST).write_text(text.replace(old, new))
    assert "sha256 differs" in refusal(copy)


def test_a_manifest_that_was_laid_out_anew(copy):
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(json.dumps(json.loads(text), sort_keys=True))
    assert bundle.load(copy).manifest


def test_truncated_weights(copy):
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert "sha256" in refusal(copy)


@pytest.mark.parametrize("kept", [0, 1, 0.5, -3])
def test_a_truncated_manifest(kept, copy):
    data = (copy / MANIFEST).read_bytes()
    (copy / MANIFEST).write_bytes(data[: int(kept * len(data)) if kept == 0.5 else kept])
    assert MANIFEST in refusal(copy)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{}", '{"format": "fracjax-bundle"}'])
def test_json_that_describes_no_bundle(text, copy):
    (copy / MANIFEST).write_text(text)
    assert "does not describe a bundle" in refusal(copy)


def test_a_manifest_that_is_not_text(copy):
    (copy / MANIFEST).write_bytes(b"\xff\xfe\x00\x01")
    assert MANIFEST in refusal(copy)


@pytest.mark.parametrize(
    "fields", [{"format": "other"}, {"version": 5}, {"version": "3"}, {"version": None}], ids=str
)
def test_another_format_or_version(fields, copy):
    edit(copy, **fields)
    message = refusal(copy)
    assert repr(next(iter(fields.values()))) in message
    assert "versions 2, 3, 4" in message


def test_a_version_of_integers_without_them_is_damage(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    rewrite(copy, fields | {"version": 4})
    assert "damaged at integers" in refusal(copy)


def test_a_version_that_was_not_tuned_is_read_as_such(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    for name in ("measured_on", "calibration", "operating_points"):
        del fields[name]
    rewrite(copy, fields | {"version": 2})
    manifest = bundle.load(copy).manifest
    assert manifest.calibration is None
    assert manifest.operating_points == {}


def test_a_version_that_had_no_gate_says_how_to_get_one(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    for name in ("gate", "scope", "sha256"):
        del fields[name]
    (copy / MANIFEST).write_text(json.dumps(fields | {"version": 1}))
    (copy / GATE).unlink()
    message = refusal(copy)
    assert "version 1" in message
    assert "fracjax.finish.fit_gate" in message
    manifest, weights = bundle.read_without_gate(copy)
    assert manifest.gate == UNFITTED
    assert weights == (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(weights[:-1])
    assert "sha256" in refusal(copy, action=bundle.read_without_gate)


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "pneumonia"},
        {"model": {"name": "vgg", "strides": "v1"}},
        {"model": {"name": "resnet14", "strides": "v2"}},
        {"preprocess": {"image_size": 8, "channel_mean": [1, 2, 3]}},
        {"preprocess": {"image_size": "big", "channel_mean": [1, 2, 3]}},
        {"preprocess": {"image_size": 64, "channel_mean": [1, 2]}},
        {"weights_sha256": None},
        {"figures": {"auroc_study": 0.9}},
        {"gate": {"threshold": 1.0}},
        {"scope": "hand"},
    ],
    ids=str,
)
def test_a_field_that_does_not_fit(fields, copy):
    edit(copy, **fields)
    assert "is damaged" in refusal(copy)


@pytest.mark.parametrize(
    "field", ["target", "preprocess", "weights_sha256", "figures", "gate", "scope"]
)
def test_a_missing_field(field, copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest[field]
    rewrite(copy, manifest)
    assert "is damaged" in refusal(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda variables: variables | {"head/kernel": np.zeros((2048, 2), np.float32)},
        lambda variables: variables | {"head/more": np.zeros(1, np.float32)},
        lambda variables: {k: v for k, v in variables.items() if k != "stages/0/0/norm1/var"},
    ],
    ids=["shape", "more", "missing"],
)
def test_weights_of_another_network_do_not_become_a_scorer(change, copy, tiny_variables):
    changed = change(tiny_variables)
    replace_weights(copy, bundle.encode_weights(changed))
    message = refusal(copy, action=fj.load)
    assert any(name in message for name in ("head/kernel", "head/more", "stages/0/0/norm1/var"))


@pytest.mark.parametrize(
    "change",
    [
        lambda gate: gate._replace(mean=gate.mean[:-1]),
        lambda gate: gate._replace(variances=gate.variances[:-1]),
        lambda gate: gate._replace(components=gate.components[:, :-1]),
        lambda gate: gate._replace(noise=gate.variances),
        lambda gate: gate._replace(normal=gate.normal[:-1]),
    ],
    ids=["mean", "variances", "components", "noise", "normal"],
)
def test_a_gate_over_other_features_is_refused(change, copy, tiny_gate):
    replace_gate(copy, bundle.encode_gate(change(tiny_gate)))
    assert "is no gate over" in refusal(copy)


def test_a_gate_of_another_width_does_not_become_a_scorer(copy, tiny_gate):
    narrow = tiny_gate._replace(
        mean=tiny_gate.mean[:-1],
        components=tiny_gate.components[:, :-1],
        normal=tiny_gate.normal[:-1],
    )
    replace_gate(copy, bundle.encode_gate(narrow))
    assert "over 1023 features" in refusal(copy, action=fj.load)


def test_arrays_that_are_no_gate_are_refused(copy, tiny_variables):
    replace_gate(copy, bundle.encode_weights({"mean": tiny_variables["head/bias"]}))
    assert "is no gate over" in refusal(copy)
    replace_gate(copy, b"")
    assert "not a safetensors file" in refusal(copy)


def test_another_architecture_does_not_become_a_scorer(tiny_bundle):
    loaded = bundle.load(tiny_bundle)
    other = replace(loaded.manifest, model=replace(loaded.manifest.model, name="resnet50"))
    refusal(replace(loaded, manifest=other), action=fj.Scorer)


# Nothing in a bundle is executed


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_is_unpickled(copy, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("pickle was used")

    harmful = pickle.dumps({"stem/kernel": Bomb()})
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    bundle.load(copy)
    replace_weights(copy, harmful)
    assert "not a safetensors file" in refusal(copy)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8, b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}", b"PK\x03\x04" * 9],
    ids=["empty", "header of 2^64", "long", "header of 2^62", "zip"],
)
def test_bytes_that_are_no_weights(data, copy):
    replace_weights(copy, data)
    assert "not a safetensors file" in refusal(copy)


def test_weights_of_a_kind_that_is_not_written_here(copy):
    for kind in ("BF16", "F8_E4M3", "X8"):
        size = 2 if kind == "BF16" else 1
        header = {"stem/kernel": {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * size]}}
        text = json.dumps(header).encode()
        replace_weights(copy, len(text).to_bytes(8, "little") + text + bytes(4 * size))
        refusal(copy, action=fj.load)

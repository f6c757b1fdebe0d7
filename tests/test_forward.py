"""What runs a network: both engines say the same, and one that does not is not believed."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import fracjax
from fracjax import bundle, forward
from fracjax.engine import Scorer
from fracjax.errors import BundleError, ExportError, UsageError
from fracjax.export import network
from fracjax.forward import openvino, probes
from fracjax.image import read_picture

SAMPLE = Path(__file__).parents[1] / "examples/sample_export"

SCORE = """
import sys
import numpy as np
import fracjax

scorer = fracjax.load(sys.argv[1], engine="openvino")
scores = scorer.score(np.random.default_rng(3).random((3, 64, 64), np.float32))
print("jax" in sys.modules, "openvino_telemetry" in sys.modules, scores.likelihoods.tobytes().hex())
"""

SCORE_IN_LITTLE_MEMORY = """
import resource
import sys
from pathlib import Path
import numpy as np
import fracjax

scorer = fracjax.load(sys.argv[1], engine="xla", batch_size=2048)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
scores = scorer.score(np.random.default_rng(3).random((5, 64, 64), np.float32))
print(scorer.batch_size, *scores.likelihoods)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv(openvino.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((5, 64, 64), np.float32)


@pytest.fixture(scope="module")
def loaded(tiny_bundle):
    return bundle.load(tiny_bundle)


def test_the_engines_say_the_same(tiny_bundle, pictures):
    one, other = (fracjax.load(tiny_bundle, engine=name) for name in ("openvino", "xla"))
    found, wanted = one.score(pictures), other.score(pictures)
    bound = probes.ALLOWED.likelihood
    assert np.ptp(wanted.likelihoods) > 1e-3, "the scores do not differ, so nothing is compared"
    np.testing.assert_allclose(found.likelihoods, wanted.likelihoods, atol=bound)
    assert (one.engine.name, other.engine.name) == ("openvino", "xla")


def test_the_model_that_ships_ranks_real_radiographs_alike():
    """Of every engine, each picture of the sample that is one file."""
    files = [path for path in sorted(SAMPLE.rglob("*")) if path.suffix in (".jpg", ".png")]
    files += sorted((SAMPLE / "archive").rglob("CR*.dcm"))
    preprocess = bundle.load().manifest.preprocess
    inputs = []
    for file in files:
        with suppress(fracjax.Rejected):
            display = read_picture(file.read_bytes()).display
            inputs.append(fracjax.image.network_input(display, preprocess))
    assert len(inputs) > 8
    one, other = (fracjax.load(engine=name, batch_size=4) for name in ("openvino", "xla"))
    found, wanted = (scorer.score(np.stack(inputs)) for scorer in (one, other))
    bound = probes.ALLOWED.likelihood
    np.testing.assert_allclose(found.likelihoods, wanted.likelihoods, atol=bound)
    apart = np.abs(np.subtract.outer(wanted.likelihoods, wanted.likelihoods)) > 2 * bound
    orders = [np.less.outer(each.likelihoods, each.likelihoods) for each in (found, wanted)]
    np.testing.assert_array_equal(orders[0][apart], orders[1][apart])
    np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-3)
    np.testing.assert_array_equal(found.familiar, wanted.familiar)


@pytest.mark.parametrize("engine", ["openvino", "xla"])
def test_a_likelihood_does_not_depend_on_what_is_scored_beside(engine, tiny_bundle, pictures):
    scorer = fracjax.load(tiny_bundle, batch_size=2, engine=engine)
    whole = scorer.score(pictures)
    for order in ([4, 1, 0, 3, 2], [2]):
        np.testing.assert_array_equal(
            scorer.score(pictures[order]).likelihoods, whole.likelihoods[order]
        )


def test_threads_do_not_get_the_scores_of_each_other(tiny_bundle, pictures):
    scorer = fracjax.load(tiny_bundle, engine="openvino")
    alone = [scorer.score(pictures[i : i + 1]).likelihoods[0] for i in range(len(pictures))]
    asked = [0, 1, 2, 3, 4] * 20
    with ThreadPoolExecutor(4) as threads:
        said = threads.map(lambda i: scorer.score(pictures[i : i + 1]).likelihoods[0], asked)
    assert list(said) == [alone[i] for i in asked]


def test_the_second_start_needs_no_jax_and_says_the_same_to_the_bit(tiny_bundle, cache, run_python):
    said = [
        run_python("-c", SCORE, tiny_bundle, **{openvino.CACHE_VARIABLE: str(cache)})
        for _ in range(2)
    ]
    assert not any(each.returncode for each in said), said[-1].stderr
    first, second = (each.stdout.split() for each in said)
    assert (first[0], second[0]) == ("True", "False")
    assert first[1:] == second[1:]
    assert first[1] == "False", "usage is reported to somebody"


def test_what_is_damaged_in_the_cache_is_compiled_anew(loaded, cache, pictures):
    whole = Scorer(loaded, engine="openvino").score(pictures).likelihoods
    (folder,) = (cache / "openvino").iterdir()
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name, data in kept.items():
        for damaged in (data[:-1], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]):
            (folder / name).write_bytes(damaged)
            again = Scorer(loaded, engine="openvino").score(pictures).likelihoods
            np.testing.assert_array_equal(again, whole)
            assert (folder / name).read_bytes() != damaged


def test_a_start_from_the_cache_compiles_nothing(loaded, cache, monkeypatch):
    Scorer(loaded, engine="openvino")
    monkeypatch.setattr(network, "onnx_of", None)
    Scorer(loaded, engine="openvino")


def test_what_is_not_of_the_cache_stays(loaded, cache, monkeypatch):
    monkeypatch.setattr(openvino, "KEPT", 1)
    other = cache / "openvino" / "of somebody else"
    other.mkdir(parents=True)
    for bias in (0, 1):
        changed = loaded.variables | {"head/bias": np.float32([bias])}
        Scorer(replace(loaded, variables=changed), engine="openvino")
    assert other.is_dir()
    assert len(list(other.parent.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(loaded, tmp_path, monkeypatch, pictures):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(openvino.CACHE_VARIABLE, str(tmp_path / "file"))
    assert np.isfinite(Scorer(loaded, engine="openvino").score(pictures).likelihoods).all()


def test_the_cache_forgets_what_was_used_long_ago(loaded, cache, monkeypatch):
    monkeypatch.setattr(openvino, "KEPT", 2)
    for number in range(4):
        changed = loaded.variables | {"head/bias": np.float32([number / 10])}
        Scorer(replace(loaded, variables=changed), engine="openvino")
        assert len(list((cache / "openvino").iterdir())) == min(number + 1, 2)


def test_an_engine_that_says_something_else_is_not_believed(loaded, cache, monkeypatch):
    name = next(name for name in loaded.variables if name.endswith("kernel"))
    other = loaded.variables | {name: loaded.variables[name] * 3}
    right = network.onnx_of
    monkeypatch.setattr(network, "onnx_of", lambda _: right(replace(loaded, variables=other)))
    with pytest.raises(ExportError, match=r"openvino .* does not say .* --engine xla"):
        Scorer(loaded, engine="openvino")
    assert not cache.exists()


def test_an_answer_that_is_no_number_is_not_believed():
    known = (np.full((2, 1), 0.5, np.float32), np.ones((2, 3), np.float32))
    probes.check(known, known, "an engine")
    for index in (0, 1):
        broken = [array.copy() for array in known]
        broken[index][1, 0] = np.nan
        with pytest.raises(ExportError, match="does not say"):
            probes.check((broken[0], broken[1]), known, "an engine")


def test_the_known_radiographs_are_familiar_and_differ():
    scorer = fracjax.load(engine="xla")
    scores = scorer.score(probes.pictures(scorer.manifest.preprocess))
    assert scores.familiar.all()
    assert np.ptp(scores.likelihoods) > 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux")
def test_a_batch_that_memory_does_not_hold_is_halved(tiny_bundle, run_python):
    """Of 2,048 pictures a layer takes more than there is; what fewer give is the same."""
    done = run_python("-c", SCORE_IN_LITTLE_MEMORY, tiny_bundle)
    assert done.returncode == 0, done.stderr
    batch_size, *likelihoods = done.stdout.split()
    assert 1 <= int(batch_size) < 2048
    pictures = np.random.default_rng(3).random((5, 64, 64), np.float32)
    wanted = fracjax.load(tiny_bundle, engine="xla").score(pictures).likelihoods
    np.testing.assert_allclose(np.array(likelihoods, np.float32), wanted, atol=1e-6)


def test_where_not_one_picture_fits_it_is_said_with_the_way_out(loaded, monkeypatch):
    scorer = Scorer(loaded, 5, "xla")
    asked = []

    def run(variables, placed):
        asked.append(len(placed))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")

    monkeypatch.setattr(scorer._forward, "_score", run)
    with pytest.raises(UsageError, match="no memory left for one picture; end what else runs"):
        scorer.score(np.zeros((7, 64, 64), np.float32))
    assert asked == [5, 2, 1]


def test_what_else_fails_on_a_device_is_not_taken_for_a_lack_of_memory(loaded, monkeypatch):
    scorer = Scorer(loaded, 4, "xla")

    def run(variables, placed):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device has fallen off the bus")

    monkeypatch.setattr(scorer._forward, "_score", run)
    with pytest.raises(jax.errors.JaxRuntimeError, match="fallen off"):
        scorer.score(np.zeros((7, 64, 64), np.float32))
    assert scorer.batch_size == 4


@pytest.mark.parametrize("engine", ["openvino", "xla"])
def test_variables_of_another_network_are_refused(engine, loaded, cache):
    missing = {name: value for name, value in loaded.variables.items() if name != "head/bias"}
    with pytest.raises(BundleError, match="head/bias"):
        Scorer(replace(loaded, variables=missing), engine=engine)


def test_an_engine_that_is_not_there_is_refused_with_the_way_out(tiny_bundle, monkeypatch):
    with pytest.raises(UsageError, match="give auto, openvino, xla"):
        fracjax.load(tiny_bundle, engine="abacus")
    for missing in ("openvino", "onnx"):
        monkeypatch.setattr(forward, "_is_installed", lambda module: module != missing)  # noqa: B023
        with pytest.raises(UsageError, match=r'pip install "fracjax\[cpu\]"'):
            fracjax.load(tiny_bundle, engine="openvino")
        assert fracjax.load(tiny_bundle).engine.name == "xla"


def test_by_itself_openvino_computes_on_a_cpu_and_xla_on_an_accelerator(tiny_bundle, monkeypatch):
    monkeypatch.setattr(forward, "_is_cpu_all", lambda: True)
    assert fracjax.load(tiny_bundle).engine.name == "openvino"
    monkeypatch.setattr(forward, "_is_cpu_all", lambda: False)
    assert fracjax.load(tiny_bundle).engine.name == "xla"

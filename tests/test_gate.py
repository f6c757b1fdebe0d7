"""The picture gate: what it measures, and what the model that ships turns away."""

import zipfile

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.stats import binomtest
from sklearn.decomposition import PCA

import fracjax
from fracjax import gate, gate_fitting
from fracjax.image import Rejected, network_input, read_picture

seeds = st.integers(0, 2**32 - 1)


def correlated(seed, n=60, d=20, shift=0.0):
    """Features of a normal distribution: (n, d)."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(0, 1, (d, d))
    return (rng.normal(shift, 1, (n, d)) @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return gate_fitting.fit(correlated(0), correlated(0, shift=5.0))


# Distances


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_distance_is_that_of_mahalanobis(seed):
    features, others = correlated(seed), correlated(seed + 1)
    covariance = PCA(10, svd_solver="full").fit(features.astype(float)).get_covariance()
    centred = others - features.mean(axis=0, dtype=float)
    expected = np.sqrt(np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1) / 20)
    measured = gate.distances(gate_fitting.fit(features, others), others)
    assert measured.dtype == np.float32
    np.testing.assert_allclose(measured, expected, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_the_unit_is_that_of_the_features_own_spread(seed, scale):
    features = correlated(seed, n=400)
    scaled = gate_fitting.fit(features * np.float32(scale), -features)
    distances = gate.distances(scaled, features * np.float32(scale))
    assert np.sqrt(np.mean(distances**2)) == pytest.approx(1, abs=0.01)
    assert (distances > 0).all()


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(1, 1e4))
def test_the_distance_grows_along_every_ray_from_the_mean(seed, factor):
    fitted = gate_fitting.fit(correlated(0), correlated(0, shift=5.0))
    step = np.random.default_rng(seed).normal(0, 1, 20).astype(np.float32)
    near, far = gate.distances(fitted, fitted.mean + np.stack([step, np.float32(factor) * step]))
    assert far == pytest.approx(factor * near, rel=1e-3)


def test_the_distance_does_not_depend_on_the_batch(fitted):
    features = correlated(3)
    alone = np.concatenate([gate.distances(fitted, row[np.newaxis]) for row in features])
    np.testing.assert_allclose(gate.distances(fitted, features), alone, rtol=1e-6)
    assert gate.distances(fitted, features[:0]).shape == (0,)


def test_what_is_no_number_is_at_no_distance(fitted):
    strange = np.full((1, 20), np.nan, np.float32)
    assert not (gate.distances(fitted, strange) <= 1e30).any()


def test_negatives_lie_on_their_side(fitted):
    assert np.mean(gate.are_negatives(fitted, correlated(5, n=200))) < 0.05
    assert np.mean(gate.are_negatives(fitted, correlated(6, n=200, shift=5.0))) > 0.95


def test_a_group_is_measured_by_a_gate_that_does_not_know_it():
    features, groups = correlated(0), np.repeat(np.arange(10), 6)
    features[groups == 7] += 100
    alone = gate_fitting.held_out_distances(features, groups)
    known = gate.distances(gate_fitting.fit(features, -features), features)
    assert alone[groups == 7].min() > 5 * known[groups == 7].max()
    assert alone[groups != 7].max() < alone[groups == 7].min()


@pytest.mark.parametrize(
    "features",
    [np.zeros((3, 8), np.float32), np.full((9, 8), 7.25, np.float32)],
    ids=["few", "alike"],
)
def test_pictures_that_define_no_distribution(features):
    with pytest.raises(ValueError, match="pictures"):
        gate_fitting.fit(features, features)


# Rates


@given(st.integers(1, 5000), st.data())
def test_the_interval_is_that_of_wilson(n, data):
    count = data.draw(st.integers(0, n))
    rate = gate.rate(np.arange(n) < count)
    interval = binomtest(count, n).proportion_ci(method="wilson")
    assert (rate.value, rate.n) == (count / n, n)
    assert (rate.low, rate.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_no_pictures_have_no_rate():
    with pytest.raises(ValueError, match="images"):
        gate.rate(np.zeros(0, bool))


# Changes


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), seeds)
def test_a_border_is_white_and_leaves_the_picture_as_it_is(shape, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, shape, np.uint8)
    bordered = gate_fitting.with_border(pixels, rng)
    rows, columns = (np.flatnonzero((bordered < 255).any(axis=axis)) for axis in (1, 0))
    np.testing.assert_array_equal(
        bordered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], pixels
    )
    for before, after in zip(shape, bordered.shape, strict=True):
        assert before <= after <= before * (1 + 2 * gate_fitting.WIDEST_BORDER)


def test_about_a_quarter_gets_no_border():
    rng, pixels = np.random.default_rng(0), np.zeros((100, 100), np.uint8)
    bordered = [gate_fitting.with_border(pixels, rng).shape for _ in range(1000)]
    assert 0.2 < np.mean([shape == pixels.shape for shape in bordered]) < 0.3


# The model that ships


@pytest.fixture(scope="module")
def shipped():
    return fracjax.load(batch_size=8)


@pytest.fixture(scope="module")
def radiographs(request):
    """Pictures of the sample export, all of FracAtlas and none trained on."""
    folder = request.config.rootpath / "examples/sample_export"
    files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    with zipfile.ZipFile(folder / "web_export.zip") as archive:
        files += [archive.read(name) for name in archive.namelist()]
    pictures = []
    for data in files:
        try:
            pictures.append(read_picture(data).display)
        except Rejected:
            continue
    assert len(pictures) >= 28
    return pictures


def scores(shipped, pictures):
    size = shipped.manifest.preprocess
    return shipped.score(np.stack([network_input(picture, size) for picture in pictures]))


def test_radiographs_are_let_through(shipped, radiographs):
    assert np.mean(scores(shipped, radiographs).familiar) > 0.9


def test_radiographs_between_white_borders_are_let_through(shipped, radiographs):
    bordered = [
        np.pad(picture, ((0, 0), (picture.shape[1] // 4,) * 2), constant_values=1.0)
        for picture in radiographs
    ]
    assert np.mean(scores(shipped, bordered).familiar) > 0.9


def test_real_radiographs_of_limbs_are_let_through(shipped, shared):
    for name in ("ts/RG2_UNC", "ts/RG3_UNC", "radiograph/hand_KODAK_J2KR.dcm"):
        assert shipped.predict(shared / "dicom" / name).familiar, name


def test_chest_radiographs_are_turned_away(shipped, shared):
    paths = [
        shared / "dicom/radiograph" / f"DX_{name}.dcm"
        for name in ("16bit_bad_window", "M1_INVERSE")
    ]
    pictures = [read_picture(path.read_bytes()).display for path in paths]
    assert not scores(shipped, pictures).familiar.any()


def test_negatives_of_radiographs_are_turned_away(shipped, radiographs):
    assert np.mean(scores(shipped, [1 - picture for picture in radiographs]).familiar) < 0.05


def test_photographs_and_other_pictures_are_turned_away(shipped):
    names = "coffee astronaut chelsea rocket hubble_deep_field camera moon brick grass gravel"
    names += " coins retina immunohistochemistry page text clock"
    pictures = [getattr(skimage.data, name)() for name in names.split()]
    grey = [np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures]
    familiar = scores(shipped, grey).familiar
    assert not familiar.any(), np.array(names.split())[familiar]


def test_what_a_computer_drew_is_turned_away(shipped):
    rng = np.random.default_rng(0)
    page = Image.new("L", (600, 800), 255)
    for line in range(10, 780, 16):
        ImageDraw.Draw(page).text((20, line), "No fracture is seen. " * 4, fill=0)
    pictures = [np.asarray(page, np.float32) / 255, 1 - np.asarray(page, np.float32) / 255]
    for level in (0.0, 0.5, 1.0):
        pictures.append(np.full((300, 240), level, np.float32))
        pictures.append(np.clip(rng.normal(level, 0.02, (300, 240)), 0, 1).astype(np.float32))
    pictures.append(rng.random((300, 240), np.float32))
    pictures.append(np.linspace(0, 1, 300 * 240, dtype=np.float32).reshape(300, 240))
    assert not scores(shipped, pictures).familiar.any()

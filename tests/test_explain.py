"""Heat maps: that they say what they claim, and lie over the right place of the radiograph."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fracjax as fj
from fracjax import data, explain
from fracjax import heat as heat_maps
from fracjax.cli import app
from fracjax.configs import Model, Preprocess
from fracjax.errors import UsageError
from fracjax.evaluate.locating import Located, in_boxes, locate, score_map
from fracjax.figure import Figure
from fracjax.image import network_input
from fracjax.models import Network
from fracjax.step import normalise

SIZE = 64
PREPROCESS = Preprocess(image_size=SIZE)


@pytest.fixture(scope="module", params=["small_cnn", "vgg11"])
def network(request):
    """A network of each kind of head, with random weights whose logit moves."""
    network = Network(Model(request.param, norm_epsilon=1e-3))
    return network, network.init(3)


def pictures(seed=0, n=2):
    return np.random.default_rng(seed).random((n, SIZE, SIZE)).astype(np.float32)


def test_maps_and_head_together_are_the_network(network):
    net, variables = network
    x = normalise(jnp.asarray(pictures()), PREPROCESS)
    parted = net.judge(variables, net.maps(variables, x))
    np.testing.assert_allclose(parted, net.logits_and_features(variables, x)[0], rtol=1e-5)


def test_grad_cam_is_the_weighed_sum_that_its_paper_defines(network):
    net, variables = network
    images = jnp.asarray(pictures())
    maps = np.asarray(net.maps(variables, normalise(images, PREPROCESS)))
    gradient = jax.jacrev(lambda maps: net.judge(variables, maps)[:, 0])(maps)
    for i, heat in enumerate(explain.grad_cam(net, PREPROCESS, variables, images)):
        weights = np.asarray(gradient[i, i]).mean(axis=(0, 1))
        expected = np.maximum((maps[i] * weights).sum(axis=-1), 0)
        np.testing.assert_allclose(heat, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_integrated_gradients_add_up_to_the_logit(network):
    """Completeness (Sundararajan et al., 3), as far as 16 parts of the way give it."""
    net, variables = network
    images = jnp.asarray(pictures())

    def logit(images):
        return net.logits_and_features(variables, normalise(images, PREPROCESS))[0][:, 0]

    heat = explain.integrated_gradients(net, PREPROCESS, variables, images)
    risen = logit(images) - logit(jnp.zeros_like(images))
    np.testing.assert_allclose(heat.sum(axis=(1, 2)), risen, rtol=0.2, atol=0.02)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(40, 200),
    width=st.integers(40, 200),
    fit=st.sampled_from(["letterbox", "crop"]),
    place=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_a_map_lies_over_the_place_of_the_picture_that_it_is_of(height, width, fit, place):
    """A bright spot of the picture is found again where it was."""
    preprocess = Preprocess(image_size=SIZE, fit=fit)
    display = np.zeros((height, width), np.float32)
    side = min(height, width)
    row = int(height / 2 + (place[0] - 0.5) * side)
    column = int(width / 2 + (place[1] - 0.5) * side)
    display[row - 3 : row + 4, column - 3 : column + 4] = 1
    heat = network_input(display, preprocess)  # as if the network looked at brightness
    found = heat_maps.on_picture(heat, display, preprocess)
    assert found.shape == display.shape
    assert 0 <= found.min() <= found.max() <= 1
    hottest = np.unravel_index(found.argmax(), found.shape)
    reach = 2 + 2 * max(height, width) / SIZE
    assert abs(hottest[0] - row) <= reach
    assert abs(hottest[1] - column) <= reach


def test_what_the_network_was_not_shown_is_cold():
    preprocess = Preprocess(image_size=SIZE, fit="crop")
    display = np.zeros((50, 150), np.float32)
    found = heat_maps.on_picture(np.ones((SIZE, SIZE), np.float32), display, preprocess)
    assert (found[:, :50] == 0).all()
    assert (found[:, 50:100] == 1).all()
    assert (found[:, 100:] == 0).all()


def test_a_cold_map_stays_cold():
    assert not heat_maps.in_square(np.full((2, 2), -1, np.float32), SIZE).any()
    hot = heat_maps.in_square(np.float32([[0, 3], [0, 0]]), SIZE)
    assert hot.max() == 1
    assert np.unravel_index(hot.argmax(), hot.shape)[1] > SIZE // 2


def test_an_overlay_leaves_cold_places_and_unlikely_pictures_as_they_are():
    display = pictures()[0]
    grey = np.repeat(np.rint(display * 255).astype(np.uint8)[..., None], 3, axis=2)
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:10] = 1
    shown = heat_maps.overlay(display, heat)
    np.testing.assert_array_equal(shown[10:], grey[10:])
    assert (shown[:10] != grey[:10]).any()
    np.testing.assert_array_equal(heat_maps.overlay(display, heat, strength=0.0), grey)
    captioned = heat_maps.overlay(display, heat, 1.0, "Research use only. " * 3)
    np.testing.assert_array_equal(captioned[:SIZE], shown)
    assert captioned[SIZE:].any()


# Scores of maps


def test_a_map_is_scored_by_hand():
    heat = np.zeros((10, 20), np.float32)
    heat[2, 3], heat[8, 15] = 3, 1
    boxes = np.float32([[0.1, 0.1, 0.4, 0.3]])  # rows 1 to 3, columns 2 to 5
    assert in_boxes((10, 20), boxes).sum() == 3 * 4
    pointing, energy, covered, middle = score_map(heat, boxes)
    assert (pointing, energy, covered, middle) == (1, 0.75, 12 / 200, 0)
    heat[8, 15] = 4
    assert score_map(heat, boxes)[:2] == (0, 3 / 7)


def test_a_map_without_heat_is_as_good_as_chance():
    boxes = np.float32([[0, 0, 0.5, 0.5]])
    assert score_map(np.zeros((10, 10), np.float32), boxes) == (0.25, 0.25, 0.25, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_random_maps_point_as_often_as_chance(seed):
    rng = np.random.default_rng(seed)
    boxes = np.float32([[0.2, 0.2, 0.7, 0.7]])
    scores = np.array(
        [score_map(rng.random((20, 20)).astype(np.float32), boxes) for _ in range(400)]
    )
    pointing, energy, covered, _ = scores.mean(axis=0)
    assert pointing == pytest.approx(covered, abs=0.1)
    assert energy == pytest.approx(covered, abs=0.02)


def test_located_is_of_positives_with_boxes_and_names_chance(tiny_bundle, data_dir):
    images = data.load("frac_atlas", data.splits("frac_atlas", data_dir), data_dir)
    located = locate(fj.load(tiny_bundle), images)
    marked = [fact for fact in images.facts if fact.label and len(fact.boxes)]
    assert marked
    for figure in (located.pointing, located.chance, located.centre, located.random_pointing):
        assert figure.n == figure.positives == len(marked)
        if isinstance(figure, Figure):  # boxes of dummy images may all cover the same part
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert located.verdict.startswith("it cannot be told")
    assert f"of {len(marked)} images of " in located.verdict
    negatives = images.subset([i for i, fact in enumerate(images.facts) if not fact.label])
    assert locate(fj.load(tiny_bundle), negatives) is None


def above(value, low, n=20, groups=20):
    return Figure(value, low, 1.0, n, n, groups)


@pytest.mark.parametrize(
    ("chance", "centre", "random", "groups", "said"),
    [
        (
            0.1,
            0.1,
            0.1,
            20,
            "in 50 of 100 images, and still points at it more often than chance, the middle of the "
            "picture and random weights would",
        ),
        (0.1, -0.1, 0.1, 20, "not surely more often than the middle of the picture: do not rely"),
        (0.1, 0.1, -0.1, 20, "not surely more often than a network with random weights: do not"),
        (0.1, -0.1, -0.1, 20, "the middle of the picture and a network with random weights: do"),
        (-0.1, 0.1, 0.1, 20, "were not shown to be better than chance (20 images)"),
        (
            0.1,
            0.1,
            0.1,
            9,
            "it cannot be told whether the maps point right, of 20 images of 9 groups",
        ),
    ],
)
def test_the_verdict_says_no_more_than_is_known(chance, centre, random, groups, said):
    figure = above(0.5, 0.3, groups=groups)
    located = Located(
        "grad_cam",
        *(figure,) * 4,
        *(above(0.4, low, groups=groups) for low in (chance, centre, random)),
        *(figure,) * 2,
        random_flat=0,
    )
    assert said in located.verdict


def test_the_picture_says_the_likelihood_that_is_told(tuned_bundle, tmp_path, monkeypatch):
    """Of another prevalence, too, and that it marks nothing."""
    captions = []
    monkeypatch.setattr(
        heat_maps, "overlay", lambda display, heat, strength, caption: captions.append(caption)
    )
    monkeypatch.setattr(heat_maps, "encode_png", lambda picture: b"")
    image = tmp_path / "radiograph.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8))
    command = ["predict", str(image), "--bundle", str(tuned_bundle), "--prevalence", "0.01"]
    app([*command, "--heatmap", str(tmp_path / "heat.png")], standalone_mode=False)
    scorer = fj.load(tuned_bundle)
    told = scorer.predict_picture(scorer.read(image), prevalence=0.01)
    assert f"likelihood {told.likelihood:.3f}." in captions[0]
    assert "no marking of a finding" in captions[0]


def test_the_command_writes_a_picture_that_says_what_it_is(tiny_bundle, tmp_path, capsys):
    image, out = tmp_path / "radiograph.png", tmp_path / "heat.png"
    original = np.random.default_rng(0).integers(0, 256, (80, 300), np.uint8)
    cv2.imwrite(str(image), original)
    command = ["predict", str(image), "--bundle", str(tiny_bundle), "--heatmap", str(out)]
    app(command, standalone_mode=False)
    assert "no marking of a finding" in capsys.readouterr().out
    picture = cv2.imread(str(out))
    assert picture.shape[1] == 300
    assert picture.shape[0] > 80, "a caption stands below"
    with pytest.raises(UsageError, match="exists already"):
        app(command, standalone_mode=False)

"""Changes that should not matter: what each does to pixels, and what is said of a model."""

from dataclasses import replace

import numpy as np
import pytest

import fracjax as fj
from fracjax import data, evaluate
from fracjax.evaluate import Settings, evaluate_images, write_report
from fracjax.evaluate.stress import CHANGES, stress
from fracjax.metrics import intervals

NO_CHANCE = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 50)
        yield


@pytest.fixture
def images(data_dir):
    return data.load("frac_atlas", ["fold_0", "fold_1"], data_dir)


def picture(shape=(80, 120)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (
        (60 + 50 * np.sin(rows / 9) + 50 * np.cos(columns / 7) + 40).clip(0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_leaves_a_picture_a_picture(name):
    before = picture()
    kept = before.copy()
    after = CHANGES[name](before, NO_CHANCE)
    assert after.dtype == np.uint8
    assert after.ndim == 2
    np.testing.assert_array_equal(before, kept, "it is not changed in place")
    assert not np.array_equal(after, before)
    if name != "half the size":
        assert after.shape == before.shape


def test_changes_are_what_their_names_say():
    before = picture()
    changed = {name: change(before, NO_CHANCE) for name, change in CHANGES.items()}
    masked = changed["corners masked"]
    assert not masked[:12, :18].any()
    assert not masked[-12:, -18:].any()
    np.testing.assert_array_equal(masked[12:-12], before[12:-12])
    np.testing.assert_array_equal(changed["black and white exchanged"], 255 - before)
    assert changed["half the size"].shape == (40, 60)
    grey = before.astype(int)
    coarse, fine = (np.abs(changed[f"JPEG of quality {q}"] - grey).mean() for q in (20, 50))
    assert coarse > fine > 0
    assert np.ptp(changed["window narrower by a fifth"]) >= np.ptp(before)
    assert np.ptp(changed["window wider by a fifth"]) < np.ptp(before)
    turned = changed["turned by 5 degrees"]
    back = CHANGES["turned by -5 degrees"](turned, NO_CHANCE)
    inner = np.s_[25:-25, 35:-35]
    assert (
        np.abs(back[inner] - grey[inner]).mean() < 0.3 * np.abs(turned[inner] - grey[inner]).mean()
    )


def test_every_change_is_measured_with_its_cases(tiny_bundle, images):
    scorer = fj.load(tiny_bundle)
    scores = evaluate.predict(scorer, images)
    likelihoods = scores.likelihoods
    threshold = float(np.median(likelihoods))
    strange = np.zeros(len(images), bool)
    strange[:3] = True  # before anything is changed
    stresses = stress(scorer, images, replace(scores, familiar=~strange), threshold)
    assert [each.change for each in stresses] == list(CHANGES)
    positives = sum(fact.label for fact in images.facts)
    for each in stresses:
        for figure in (each.moved, each.turned, each.auroc, each.auroc_change, each.turned_away):
            assert (figure.n, figure.positives) == (len(images), positives)
    by_name = {each.change: each for each in stresses}
    assert by_name["black and white exchanged"].moved.value > 0
    inverted = evaluate.predict(scorer, images, CHANGES["black and white exchanged"]).likelihoods
    moved = np.abs(inverted.astype(float) - likelihoods)
    assert by_name["black and white exchanged"].moved.value == pytest.approx(moved.mean())
    now = evaluate.predict(scorer, images, CHANGES["black and white exchanged"]).familiar
    assert by_name["black and white exchanged"].turned_away.value == (~now & ~strange).mean()
    turned = (inverted >= threshold) != (likelihoods >= threshold)
    assert by_name["black and white exchanged"].turned.value == pytest.approx(turned.mean())


def test_the_report_has_them_where_they_were_asked_for(tiny_bundle, images, tmp_path):
    evaluated = evaluate_images(fj.load(tiny_bundle), images, Settings(stress=True))
    assert "corners masked" in "\n".join(evaluated.evaluation.lines())
    write_report(evaluated, tmp_path / "out")
    assert "corners masked" in (tmp_path / "out/report.html").read_text()
    without = evaluate_images(fj.load(tiny_bundle), images).evaluation
    assert without.stresses == ()

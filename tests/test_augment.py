"""Random changes of the training pictures."""

from dataclasses import replace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.augment import CORNER, augment, blur, compress, mixup, warp
from fracjax.configs import Augment

SIZE = 48
NOTHING = Augment(rotation=0, scale=0, shift=0, flip=0, contrast=0, gamma=0)
STRONG = Augment(rotation=45, scale=0.3, shift=0.2, flip=0.5, contrast=0.5, gamma=1)

ALL = replace(
    STRONG, flip_vertical=0.5, noise=0.2, cutout=0.5, blur=2, bars=0.2, corners=0.5, jpeg=3
)

augment_jit = jax.jit(augment, static_argnums=2)
mixup_jit = jax.jit(mixup, static_argnums=3)
warp_jit = jax.jit(warp)
blur_jit = jax.jit(blur, static_argnums=2)
compress_jit = jax.jit(compress)


def pictures(n, seed=0):
    """Smooth pictures (n, SIZE, SIZE) that use all of 0..1."""
    noise = np.random.default_rng(seed).random((n, SIZE, SIZE)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 3) for picture in noise])
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    return (smooth - low) / (high - low)


def changed_by(config, batch, seed=0):
    """The batch as ``config`` changes it, on the host."""
    keys = jax.random.split(jax.random.key(seed), len(batch))
    return np.asarray(augment_jit(batch, keys, config))


def test_no_change_is_the_identity():
    batch = pictures(3)
    np.testing.assert_array_equal(changed_by(NOTHING, batch), batch)


@settings(max_examples=50, deadline=None)
@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.6, 1.6),
    shift=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    mirror=st.tuples(*[st.sampled_from([1, -1])] * 2),
)
def test_warp_agrees_with_opencv(degrees, scale, shift, mirror):
    picture = pictures(1)[0]
    ours = warp_jit(picture, np.deg2rad(degrees), scale, jnp.asarray(shift), jnp.asarray(mirror))
    # OpenCV turns counter-clockwise, and counts x before y.
    centre = (SIZE - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), -degrees, scale)
    matrix[:, 2] += shift[::-1]
    source = np.ascontiguousarray(picture[:: mirror[0], :: mirror[1]])
    theirs = cv2.warpAffine(source, matrix, (SIZE, SIZE))
    # At the border, the two shade from the picture into the black differently.
    inside = cv2.warpAffine(np.ones_like(picture), matrix, (SIZE, SIZE)) == 1
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.any()
    np.testing.assert_allclose(np.asarray(ours)[inside], theirs[inside], rtol=0, atol=1e-4)


def test_positive_means_clockwise_down_and_right():
    picture = np.zeros((SIZE, SIZE), np.float32)
    picture[10, 24] = 1  # above the centre
    still, unmirrored = jnp.zeros(2), jnp.ones(2)
    turned = np.asarray(warp_jit(picture, np.deg2rad(90), 1.0, still, unmirrored))
    assert np.unravel_index(turned.argmax(), turned.shape) == (24, 37)
    moved = np.asarray(warp_jit(picture, 0.0, 1.0, jnp.array([3.0, 5.0]), unmirrored))
    assert np.unravel_index(moved.argmax(), moved.shape) == (13, 29)


def test_the_key_decides():
    batch = pictures(4)
    once, again, other = (changed_by(ALL, batch, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (np.abs(once - other).max((1, 2)) > 0.1).all()


def test_pictures_of_a_batch_change_differently():
    batch = np.repeat(pictures(1), 4, axis=0)
    changed = changed_by(STRONG, batch)
    assert all((changed[0] != changed[i]).any() for i in range(1, 4))


def test_a_share_of_a_batch_changes_as_it_does_in_the_whole():
    batch, keys = pictures(4), jax.random.split(jax.random.key(2), 4)
    weights = np.random.default_rng(0).random((4, 2, 2)).astype(np.float32)
    config = replace(ALL, mixup=0.4)
    whole = augment_jit(batch, keys, config)
    mixed = mixup_jit(batch, weights, keys, config)
    for share in (slice(0, 2), slice(2, 4)):
        part = augment_jit(batch[share], keys[share], config)
        np.testing.assert_allclose(part, whole[share], rtol=0, atol=1e-5)
        parts = mixup_jit(batch[share], weights[share], keys[share], config)
        for mine, all_of_them in zip(parts, mixed, strict=True):
            np.testing.assert_allclose(mine, all_of_them[share], rtol=0, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_the_range_is_kept(seed):
    changed = changed_by(ALL, pictures(4, seed), seed)
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize(
    "tone",
    [
        replace(NOTHING, flip=0.5, contrast=0.5, gamma=1),
        replace(NOTHING, noise=0.5),
        replace(NOTHING, flip=0.5, contrast=0.5, gamma=1, noise=0.5),
    ],
)
def test_the_black_around_a_picture_stays_black(tone):
    batch = pictures(8) * 0.6 + 0.4
    batch[:, : SIZE // 3] = 0
    changed = changed_by(tone, batch, 3)
    assert (changed[:, : SIZE // 3] == 0).all()
    assert (changed[:, SIZE // 3 :] > 0).mean() > 0.8
    assert np.abs(changed - batch).max() > 0.1


@pytest.mark.parametrize("field", ["flip", "flip_vertical"])
@pytest.mark.parametrize(("probability", "flipped"), [(0.0, 0), (1.0, 64)])
def test_flips_are_certain_at_the_ends(field, probability, flipped):
    batch = np.repeat(pictures(1), 64, axis=0)
    changed = changed_by(replace(NOTHING, **{field: probability}), batch)
    mirrored = batch[:, :, ::-1] if field == "flip" else batch[:, ::-1]
    assert np.isclose(changed, mirrored, atol=1e-5).all((1, 2)).sum() == flipped


def test_the_two_flips_are_drawn_apart():
    batch = np.repeat(pictures(1), 400, axis=0)
    changed = changed_by(replace(NOTHING, flip=0.5, flip_vertical=0.5), batch)
    for rows in (1, -1):
        for columns in (1, -1):
            alike = np.isclose(changed, batch[:, ::rows, ::columns], atol=1e-5).all((1, 2))
            assert 60 < alike.sum() < 140  # 100 with a standard deviation of 9


def test_a_further_change_leaves_what_the_others_draw():
    batch = pictures(6)
    hardly = replace(STRONG, noise=1e-6, cutout=1e-6)
    np.testing.assert_allclose(
        changed_by(hardly, batch), changed_by(STRONG, batch), rtol=0, atol=1e-4
    )


def test_noise_is_up_to_as_strong_as_said_and_differs_from_pixel_to_pixel():
    grey = np.full((200, SIZE, SIZE), 0.5, np.float32)
    difference = changed_by(replace(NOTHING, noise=0.1), grey) - grey
    deviations = difference.std((1, 2))
    assert 0.09 < deviations.max() < 0.105
    assert np.quantile(deviations, 0.5) == pytest.approx(0.05, abs=0.012)
    assert np.abs(difference.mean((1, 2))).max() < 0.01
    neighbours = np.corrcoef(difference[:, :, 1:].ravel(), difference[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.01


def test_cutout_blackens_one_square_of_any_place_and_size_and_nothing_else():
    batch = pictures(300) * 0.5 + 0.5
    changed = changed_by(replace(NOTHING, cutout=0.5), batch)
    cut = changed == 0
    np.testing.assert_array_equal(changed[~cut], batch[~cut])
    rows, columns = cut.any(2), cut.any(1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        assert (np.diff(lines.astype(np.int8), axis=1) == 1).sum(1).max() == 1  # in one piece
        assert SIZE // 2 - 2 <= lines.sum(1).max() <= SIZE // 2 + 1
    inside = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1])
    assert np.abs(rows.sum(1) - columns.sum(1))[inside].max() <= 1
    assert (cut.any(0)).all()


def labels(known):
    """Weights of labels (batch, outputs, 2) as losses take them, from 1, 0 and -1 for unknown."""
    return np.stack([known == 0, known == 1], axis=-1).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(
    known=st.lists(st.sampled_from([0, 1, -1]), min_size=24, max_size=24).map(
        lambda flat: np.reshape(flat, (8, 3))
    ),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_label_is_mixed_as_its_picture_and_unknown_with_an_unknown_one(known, seed):
    batch = np.zeros((len(known), 4, 4), np.float32)
    batch[::2] = 1  # so that a mixture shows the share of its pair's first picture
    keys = jax.random.split(jax.random.key(seed), len(known))
    mixed, weights = map(
        np.asarray, mixup_jit(batch, labels(known), keys, replace(NOTHING, mixup=0.4))
    )
    first = mixed[:, 0, 0]
    assert (mixed == first[:, None, None]).all()
    np.testing.assert_allclose(first[::2] + first[1::2], 1, rtol=0, atol=1e-6)
    firsts, seconds = np.repeat(known[::2], 2, axis=0), np.repeat(known[1::2], 2, axis=0)
    positive = first[:, None] * firsts + (1 - first[:, None]) * seconds
    expected = np.stack([1 - positive, positive], axis=-1)
    expected[(firsts == -1) | (seconds == -1)] = 0
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_of_a_mixture_follow_the_beta_distribution(alpha):
    batch = np.zeros((4000, 1, 1), np.float32)
    batch[::2] = 1
    keys = jax.random.split(jax.random.key(0), len(batch))
    config = replace(NOTHING, mixup=alpha)
    shares = np.asarray(mixup_jit(batch, labels(np.ones((4000, 1))), keys, config)[0])[::2]
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert 0 <= shares.min() <= shares.max() <= 1


def test_a_pair_that_is_mixed_keeps_its_sum():
    batch, keys = pictures(6), jax.random.split(jax.random.key(1), 6)
    mixed, _ = mixup_jit(batch, labels(np.ones((6, 1))), keys, replace(NOTHING, mixup=1.0))
    np.testing.assert_allclose(mixed[::2] + mixed[1::2], batch[::2] + batch[1::2], atol=1e-5)
    assert (np.abs(np.asarray(mixed) - batch).max((1, 2)) > 0.01).all()


@settings(max_examples=20, deadline=None)
@given(deviation=st.floats(0.3, 2.0), seed=st.integers(0, 100))
def test_blur_agrees_with_opencv(deviation, seed):
    picture = pictures(1, seed)[0]
    ours = blur_jit(picture, deviation, 6)
    theirs = cv2.GaussianBlur(picture, (13, 13), deviation, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_a_blur_takes_detail_and_leaves_what_is_black():
    batch = pictures(4)
    batch[:, :, : SIZE // 4] = 0
    blurred = changed_by(replace(NOTHING, blur=2), batch)
    assert (blurred[:, :, : SIZE // 4] == 0).all()
    shown = np.s_[:, :, SIZE // 2 :]
    assert np.abs(np.diff(blurred[shown])).mean() < np.abs(np.diff(batch[shown])).mean()


@settings(max_examples=20, deadline=None)
@given(
    quality=st.integers(10, 50),
    sharp=st.booleans(),
    size=st.sampled_from([SIZE, SIZE - 3]),
    seed=st.integers(0, 100),
)
def test_compression_loses_what_libjpeg_loses(quality, sharp, size, seed):
    """Of smooth pictures, and of noise, which has all frequencies."""
    picture = pictures(1, seed)[0, :size, :size]
    if sharp:
        picture = np.random.default_rng(seed).random((size, size), np.float32)
    picture = np.round(picture * 255) / 255
    ours = compress_jit(picture, 5000 // quality / 100)
    of_file = cv2.imencode(
        ".jpg", np.uint8(picture * 255 + 0.5), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    theirs = cv2.imdecode(of_file, cv2.IMREAD_GRAYSCALE) / 255
    lost = np.abs(theirs - picture).mean()
    # libjpeg restores whole grey levels, and transforms in whole numbers.
    assert np.abs(ours - theirs).mean() < 0.1 * lost + 0.5 / 255


def test_compression_differs_in_strength_and_leaves_what_is_black():
    batch = np.repeat(pictures(1), 200, axis=0)
    batch[:, :, : SIZE // 3] = 0
    changed = changed_by(replace(NOTHING, jpeg=3), batch)
    assert (changed[:, :, : SIZE // 3] == 0).all()
    lost = np.abs(changed - batch).mean((1, 2))
    assert lost.max() > 3 * lost.min()
    strongest = np.asarray(compress_jit(batch[0], 3.0)) * (batch[0] > 0)
    assert lost.max() <= np.abs(strongest - batch[0]).mean() * 1.1


def test_bars_lie_at_the_sides_and_nowhere_else():
    batch = np.ones((64, SIZE, SIZE), np.float32)
    barred = changed_by(replace(NOTHING, bars=0.25), batch)
    assert set(np.unique(barred)) == {0, 1}
    inner = np.s_[:, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    assert (barred[inner] == 1).all()
    for side in (barred[:, 0], barred[:, -1], barred[:, :, 0], barred[:, :, -1]):
        assert 0 < side.max(1).mean() < 1, "a side has a bar in some pictures"


def test_corners_are_black_as_often_as_is_said():
    batch = np.ones((400, SIZE, SIZE), np.float32)
    changed = np.array(changed_by(replace(NOTHING, corners=0.3), batch))
    side = round(CORNER * SIZE)
    ends = (slice(0, side), slice(SIZE - side, SIZE))
    corners = [changed[:, rows, columns] for rows in ends for columns in ends]
    for corner in corners:
        is_black = (corner == 0).all((1, 2))
        assert ((corner == 1).all((1, 2)) | is_black).all()
        assert 0.2 < is_black.mean() < 0.4
    for rows in ends:
        for columns in ends:
            changed[:, rows, columns] = 1
    assert (changed == 1).all()

"""The audit of a data set: each kind of leak is found where it is planted, and only there."""

import io
import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracjax import data
from fracjax.audit import audit, duplicates, predictability, shortcuts
from fracjax.audit.report import Pair
from fracjax.errors import DataError
from fracjax.figure import Figure, Undefined
from fracjax.metrics import Bounded, Sample, measure, ranking

HEIGHT, WIDTH = 140, 120


def encode(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def picture(seed):
    """Structures of many sizes, unlike those of any other seed."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.GaussianBlur(rng.normal(0, sigma, (HEIGHT, WIDTH)), (0, 0), sigma)
        for sigma in (1.5, 3, 6, 12, 24)
    ]
    levels = sum(layers)
    levels = 40 + 160 * (levels - levels.min()) / np.ptp(levels)
    return levels.astype(np.uint8)


def example(number, split, label, pixels, **options):
    return data.Example(
        encoded=encode(pixels, **options),
        label=label,
        target="fracture",
        body_part=("hand", "leg")[number % 2],
        view="",
        study_id=f"study {number // 2}",
        group=f"patient {number // 4}",
        source=f"{('negative', 'positive')[label]}/{split}-{number:03}.png",
        boxes=np.zeros((0, 4), np.float32),
        hardware=-1,
        findings=(),
        truncated=False,
    )


def label_of(number):
    return int(number % 4 in ((1, 2) if number // 4 % 2 else (0, 3)))


@pytest.fixture(scope="module")
def clean():
    """Two splits of 80 images, each group with both labels in both body parts."""
    return {
        split: [
            example(number, split, label_of(number), picture(number))
            for number in range(start, start + 80)
        ]
        for split, start in (("train", 0), ("test", 80))
    }


def with_last(clean, split, **changes):
    """The set with its last image changed."""
    *others, last = clean[split]
    return clean | {split: [*others, replace(last, **changes)]}


def findings(report, severity):
    return {found.check for found in report.findings if found.severity == severity}


def test_a_clean_set_passes_without_a_warning(clean):
    said = []
    report = audit(clean, lambda *progress: said.append(progress))
    assert not report.failed
    assert {found.severity for found in report.findings} == {"information"}
    assert (report.images, report.positives, report.pairs) == (160, 80, ())
    assert report.radius == duplicates.RADIUS
    assert {what for what, _, _ in said} >= {"reading images", "measuring shortcuts"}
    assert [(row.split, row.body_part, row.images, row.positives) for row in report.balance] == [
        (split, part, 40, 20) for split in ("test", "train") for part in ("hand", "leg")
    ]


def test_a_patient_in_two_splits_is_found_and_not_named(clean):
    report = audit(with_last(clean, "test", group="patient 3"))
    assert findings(report, "failure") == {"patients or groups across splits"}
    found = report.findings[0]
    first, second = clean["train"][12], clean["test"][-1]
    assert found.files == (f"{first.source} (train) and {second.source} (test)",)
    assert "patient 3" not in report.markdown() + report.json()


def test_a_study_in_two_splits_is_found(clean):
    report = audit(with_last(clean, "test", study_id="study 5"))
    assert findings(report, "failure") == {"studies across splits"}


def changed(pixels, how):
    """A copy, as public sets hold them."""
    height, width = pixels.shape
    match how:
        case "mirror":
            return np.fliplr(pixels)
        case "turn":
            return np.rot90(pixels)
        case "gamma":
            return (255 * (pixels / 255) ** 1.4).astype(np.uint8)
        case "contrast":
            return (pixels * 0.6 + 20).astype(np.uint8)
        case "crop":
            return pixels[4:, 3:]
        case "rotate":
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), 1, 1)
            return cv2.warpAffine(pixels, turn, (width, height))


@pytest.mark.parametrize("how", ["mirror", "turn", "gamma", "contrast", "crop", "rotate"])
def test_a_changed_copy_in_another_split_is_found(clean, how):
    original, last = clean["train"][6], clean["test"][-1]
    assert original.label != last.label
    copy = encode(np.ascontiguousarray(changed(original.pixels(), how)))
    report = audit(with_last(clean, "test", encoded=copy))
    assert findings(report, "failure") == {
        "copies across splits",
        "copies with opposite labels",
    }
    (pair,) = report.pairs
    assert pair.kind == "near"
    assert (pair.first.source, pair.second.source) == (original.source, last.source)
    assert pair.across_splits
    assert pair.contradictory
    assert not pair.same_group


def test_the_same_pixels_in_another_file_format_are_an_exact_copy(clean):
    original = clean["train"][7]
    copy = encode(original.pixels(), format="TIFF")
    report = audit(with_last(clean, "train", encoded=copy))
    assert [pair.kind for pair in report.pairs] == ["exact"]
    assert not report.pairs[0].across_splits
    assert "copies in different groups" in findings(report, "warning")


def test_a_copy_within_a_group_of_one_split_is_no_leak(clean):
    original = clean["train"][-4]
    assert (original.label, original.group) == (clean["train"][-1].label, clean["train"][-1].group)
    report = audit(with_last(clean, "train", encoded=original.encoded))
    assert not report.failed
    assert "copies within groups" in findings(report, "information")


def test_a_split_of_one_class_fails(clean):
    report = audit(clean | {"test": [image for image in clean["test"] if image.label]})
    assert "classes of test" in findings(report, "failure")


def padded(image):
    return encode(np.pad(image.pixels()[:-20], ((0, 20), (0, 0))))


PLANTED = {
    "size": lambda image: {"encoded": encode(cv2.resize(image.pixels(), (180, 210)))},
    "aspect ratio": lambda image: {"encoded": encode(image.pixels()[:-30])},
    "file kind": lambda image: {"encoded": encode(image.pixels(), format="JPEG", quality=60)},
    "source": lambda image: {"source": "clinic/" + image.source},
    "truncation": lambda image: {"truncated": True},
    "border": lambda image: {"encoded": padded(image)},
}


@pytest.mark.parametrize("feature", PLANTED)
def test_a_shortcut_to_the_label_is_found(clean, feature):
    """Three of four positives, and one of four negatives, show it."""
    rng = np.random.default_rng(0)
    leaky = {
        split: [
            replace(image, **PLANTED[feature](image))
            if rng.random() < (0.75 if image.label else 0.25)
            else image
            for image in images
        ]
        for split, images in clean.items()
    }
    report = audit(leaky)
    assert feature in findings(report, "failure")
    figure = report.predictability[feature]
    assert figure.low < 0.75 < figure.high
    assert figure.groups == 40


def test_order_and_metal_are_only_warned_of(clean):
    leaky = {
        split: [
            replace(image, hardware=image.label, source=f"{1000 * image.label + number}.png")
            for number, image in enumerate(images)
        ]
        for split, images in clean.items()
    }
    report = audit(leaky)
    assert {"order", "metal"} <= findings(report, "warning")
    assert not report.failed


@pytest.mark.parametrize("feature", ["corners", "compression"])
def test_markers_and_bytes_are_only_warned_of(clean, feature):
    """Of the positives, each has a bright letter in a corner; or is stored without compression."""

    def marked(image):
        pixels = image.pixels()
        if feature == "compression":
            return encode(pixels, compress_level=0)
        return encode(cv2.putText(pixels.copy(), "R", (4, 24), 0, 0.8, 255, 3))

    leaky = {
        split: [replace(image, encoded=marked(image)) if image.label else image for image in images]
        for split, images in clean.items()
    }
    report = audit(leaky)
    assert feature in findings(report, "warning")
    assert report.predictability[feature].value > 0.9
    assert not report.failed


def test_few_images_that_all_have_one_label_are_a_mark(clean):
    negatives = [image for image in clean["train"] if not image.label][:15]
    marked = {image.source for image in negatives}
    leaky = clean | {
        "train": [replace(image, truncated=image.source in marked) for image in clean["train"]]
    }
    report = audit(leaky)
    (mark,) = [found for found in report.findings if found.check == "truncation: truncated"]
    assert mark.severity == "warning"
    assert set(mark.files) == marked
    assert "all 15 images are negative, where 7.5 positive ones" in mark.text


def test_an_imbalance_of_body_parts_is_reported_and_no_leak(clean):
    """Hands are large and mostly positive: size tells the part, and no more of the label."""
    rng = np.random.default_rng(1)
    images = []
    for image in itertools.chain(*clean.values()):
        part = "hand" if rng.random() < (0.8 if image.label else 0.2) else "leg"
        pixels = image.pixels() if part == "leg" else cv2.resize(image.pixels(), (180, 210))
        images.append(replace(image, body_part=part, encoded=encode(pixels)))
    report = audit({"all": images})
    assert not report.failed
    assert report.predictability["body part"].low > 0.7
    assert predictability(images) == report.predictability
    if (size := report.predictability.get("size")) is not None:  # else it says nothing at all
        assert size.low < 0.556
    assert "body part" in findings(report, "information")


def test_a_report_holds_every_pair_and_the_terminal_few(clean):
    copies = [
        replace(image, encoded=original.encoded)
        for image, original in zip(clean["test"][:6], clean["train"], strict=False)
    ]
    report = audit(clean | {"test": copies + clean["test"][6:]})
    assert len(report.pairs) == 6
    written = json.loads(report.json())
    assert written["failed"] is True
    assert [pair["first"]["source"] for pair in written["pairs"]] == [
        pair.first.source for pair in report.pairs
    ]
    assert all(pair.second.source in report.markdown() for pair in report.pairs)
    lines = report.lines()
    assert lines[0].startswith("audit FAILED: ")
    assert "  and 3 more, in the report file" in lines


def test_a_name_cannot_drive_the_terminal(clean):
    copied = clean["train"][0]
    report = audit(
        with_last(clean, "test", encoded=copied.encoded, source="a\x1b[2Jb|c.png", label=1)
    )
    assert isinstance(report.pairs[0], Pair)
    assert "\x1b" not in "".join(report.lines()) + report.markdown() + report.json()


def test_what_cannot_be_audited_is_said(clean):
    with pytest.raises(DataError, match="no images"):
        audit({"train": []})
    with pytest.raises(DataError, match=r"train-079.png of train cannot be decoded"):
        audit(with_last(clean, "train", encoded=b"\x89PNG\r\n\x1a\nnothing"))


def test_what_the_progress_raises_ends_the_audit(clean):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(clean, stop)


# The pair search


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 30),
    radius=st.integers(0, 64),
    block=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_the_search_finds_what_comparing_each_pair_finds(n, radius, block, seed):
    rng = np.random.default_rng(seed)
    few_bits = rng.integers(0, 2**64, (n, 8), np.uint64) & rng.integers(0, 2**64, 1, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        found = duplicates.candidates(few_bits, radius)
    expected = {}
    for first, second in itertools.combinations(range(n), 2):
        distances = [(int(few_bits[first, 0]) ^ int(turn)).bit_count() for turn in few_bits[second]]
        if min(distances) <= radius:
            expected[first, second] = (distances.index(min(distances)), min(distances))
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    facts = zip(found.turn.tolist(), found.distance.tolist(), strict=True)
    assert dict(zip(pairs, facts, strict=True)) == expected
    assert found.distance.tolist() == sorted(found.distance.tolist())
    assert found.radius == radius


def test_too_many_candidates_shrink_the_radius():
    hashes = np.array([[0], [1], [3], [7]], np.uint64)  # neighbours differ in one bit
    found = duplicates.candidates(hashes, radius=3, limit=3)
    assert found.radius == 1
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1), (1, 2), (2, 3)]
    nothing = duplicates.candidates(np.zeros((5, 8), np.uint64), radius=3, limit=9)
    assert (nothing.radius, len(nothing.first)) == (-1, 0)


@settings(max_examples=30, deadline=None)
@given(
    copies=st.lists(
        st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from("xy"), st.integers(0, 1)),
        max_size=8,
    )
)
def test_a_chain_of_copies_shows_each_difference_among_them(copies):
    pairs = duplicates.chains(
        [digest for digest, _, _ in copies], [(split, label, "") for _, split, label in copies]
    )
    for fact in (1, 2):
        shown = {copies[i][0] for i, j in pairs if copies[i][fact] != copies[j][fact]}
        there = {
            one[0]
            for one, other in itertools.combinations(copies, 2)
            if one[0] == other[0] and one[fact] != other[fact]
        }
        assert shown == there
    assert all(copies[i][0] == copies[j][0] for i, j in pairs)


@pytest.mark.parametrize("turn", range(8))
def test_each_turn_is_recognised(turn):
    pixels = picture(1)
    sketches = [duplicates.sketch(image) for image in (pixels, duplicates.turned(pixels, turn))]
    found = duplicates.candidates(np.stack([sketch.hashes for sketch in sketches]))
    other = duplicates.turned(sketches[1].thumbnail, int(found.turn[0]))
    assert duplicates.correlation(sketches[0].thumbnail, other) > 0.99


def test_a_flat_picture_is_like_no_other():
    flat, other = np.full((96, 96), 7, np.uint8), np.full((96, 96), 9, np.uint8)
    assert duplicates.correlation(flat, other) == 0
    assert abs(duplicates.correlation(flat, duplicates.sketch(picture(0)).thumbnail)) < 0.5


# Shortcuts


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_adjusted_area_counts_pairs_within_strata(seed):
    rng = np.random.default_rng(seed)
    n = 30
    labels, scores, strata = rng.integers(0, 2, n), rng.integers(0, 4, n), rng.integers(0, 3, n)
    groups = np.array([f"patient {i // 2}" for i in range(n)])
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(n)
        for j in range(n)
        if labels[i] and not labels[j] and strata[i] == strata[j]
    ]
    figure = measure(Bounded(ranking.within(strata)), Sample.of(labels, scores, groups))
    if not pairs:
        assert isinstance(figure, Undefined)
    else:
        assert isinstance(figure, Figure)
        assert figure.value == pytest.approx(np.mean(pairs))
        assert 0 <= figure.low <= figure.high <= 1
        assert (figure.n, figure.positives, figure.groups) == (n, labels.sum(), 15)


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("images/Non_fractured/IMG0000001.jpg", "images//IMG#.jpg"),
        ("images/Fractured/IMG0000002.jpg", "images//IMG#.jpg"),
        ("XR_HAND/patient00011/study1_negative/image2.png", "XR_HAND/patient#/study#_/image#.png"),
        ("abnormal/posture_3.png", "/posture_#.png"),
    ],
)
def test_a_pattern_keeps_the_folders_and_drops_numbers_and_labels(source, pattern):
    assert shortcuts.source_pattern(source) == pattern


def test_the_numbers_of_a_path_count_from_its_end():
    assert shortcuts.numbers("a1/b22/c333/d4444.png") == [4444, 333, 22]
    assert shortcuts.numbers("a7.png") == [7, -1, -1]


def test_a_border_is_measured():
    pixels = picture(0)[:100, :100]
    framed = np.pad(pixels, ((10, 0), (0, 25)), constant_values=5)
    *flat, level, spread = shortcuts.traits(encode(framed), framed).border
    assert flat == pytest.approx([10 / 110, 0, 0, 25 / 125])
    assert level == 5
    assert spread > 1


def test_jpeg_writers_are_told_apart():
    gray = picture(0)
    kinds = [shortcuts.file_kind(encode(gray, format="JPEG", quality=q)) for q in (60, 90, 90)]
    assert kinds[0] != kinds[1] == kinds[2]
    assert shortcuts.file_kind(encode(gray)) == "PNG L"


# Real radiographs


def test_copies_of_real_radiographs_are_found_and_strangers_are_not(shared):
    folder = shared / "data/FracAtlas/images/Non_fractured"
    files = sorted(folder.glob("*.jpg"))[100:1300:40]
    originals = [np.asarray(Image.open(file).convert("L")) for file in files]
    copies = [changed(np.ascontiguousarray(p), "gamma") for p in originals]
    copies = [np.ascontiguousarray(np.fliplr(p)) for p in copies]
    sketches = [duplicates.sketch(pixels) for pixels in [*originals, *copies]]
    found = duplicates.candidates(np.stack([sketch.hashes for sketch in sketches]))
    alike = {
        (i, j)
        for i, j, turn in zip(
            found.first.tolist(), found.second.tolist(), found.turn.tolist(), strict=True
        )
        if duplicates.correlation(
            sketches[i].thumbnail, duplicates.turned(sketches[j].thumbnail, turn)
        )
        >= duplicates.MIN_CORRELATION
    }
    assert len(alike & {(i, i + len(files)) for i in range(len(files))}) >= 0.9 * len(files)
    assert all(j == i + len(files) for i, j in alike)

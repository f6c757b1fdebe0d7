"""Which image counts towards which study, and in which order the studies stand."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from exports import CONTENTS, archive, check_conserved, dicom, pixels, plain, put, score
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from fracjax.image import Header, ReadPolicy, Reason
from fracjax_jobs import studies
from fracjax_jobs.account import Account, Record
from fracjax_jobs.state import Image
from fracjax_jobs.studies import (
    Band,
    GroupBy,
    Study,
    resolve,
    same_picture,
    split_patients,
)
from fracjax_jobs.worklist import Presentation
from image.dicom_files import LOSSLESS, dicom_bytes

SAME = 1e-3
"""Likelihoods of one picture in different forms lie this close together."""


@pytest.fixture(scope="module")
def worked(tmp_path_factory, scorer, reading_here):
    """A run over an export in which each study is a case of its own."""
    folder = tmp_path_factory.mktemp("worked")
    root = folder / "export"
    facts = {
        "AccessionNumber": "A77",
        "StudyDate": "20250131",
        "StudyTime": "0815",
        "BodyPartExamined": "HAND",
    }
    put(root, "1/IM1", dicom(1, "1.2.1", **facts))
    put(root, "2/deep/IM1", dicom(2, "1.2.1", SeriesInstanceUID="1.2.1.9"))
    put(root, "3.zip", archive(("IM1", dicom(3, "1.2.1")), ("IM2", dicom(4, "1.2.2"))))
    put(root, "4.zip", archive(("IM3", dicom(5, "1.2.2"))))
    put(root, "1/copy of IM1", dicom(1, "1.2.1"))
    put(root, "partly/good", dicom(6, "1.2.3"))
    put(root, "partly/short", dicom(7, "1.2.3")[:-1000])
    put(root, "partly/flat", dicom(8, "1.2.3", PixelData=b"\0" * 80 * 64 * 2))
    put(root, "broken/9", dicom(9, "1.2.9")[:-1000])
    put(root, "broken/4", dicom(10, "1.2.4", Rows=None))
    put(root, "plain/a.png", plain(11))
    put(root, "plain/b.png", plain(12))
    put(root, "no study", dicom(13, StudyInstanceUID=None))
    put(root, "twin b", dicom(14, "1.2.8", SOPInstanceUID="1.2.8.1"))
    put(root, "twin a", dicom(14, "1.2.7", SOPInstanceUID="1.2.7.1"))
    with reading_here():
        run = score(root, folder / "worklist.parquet", scorer)
    check_conserved(run)
    return run


def test_a_study_gathers_its_images_from_folders_and_archives(worked):
    study = worked.study("1.2.1")
    paths = {worked.paths[key] for key in study["image_file_keys"]}
    assert paths == {"1/IM1", "2/deep/IM1", "3.zip/IM1"}
    assert len(study["series_instance_uids"]) == 2
    assert worked.study("1.2.2")["images_scored"] == 2


def test_a_study_tells_what_its_first_header_says(worked):
    study = worked.study("1.2.1")
    told = ("study_instance_uid", "accession_number", "study_datetime", "modality")
    assert [study[name] for name in told] == ["1.2.1", "A77", "2025-01-31T08:15", "DX"]
    assert (study["body_parts"], study["body_parts_tagged"]) == (["hand"], ["HAND"])


def test_its_likelihood_is_the_mean_of_its_images(worked):
    for study in worked.worklist:
        likelihoods = study["image_raw_likelihoods"]
        if likelihoods:
            assert study["likelihood"] == pytest.approx(np.mean(likelihoods), abs=1e-6)
            assert likelihoods == sorted(likelihoods, reverse=True)
    by_key = {row["file_key"]: row for row in worked.files}
    for study in worked.worklist:
        rows = [by_key[key] for key in study["image_file_keys"]]
        assert [row["raw_likelihood"] for row in rows] == study["image_raw_likelihoods"]
        assert all(row["study_key"] == study["study_key"] for row in rows)
        if rows:
            assert study["top_file_key"] == rows[0]["file_key"]
            assert study["top_sop_instance_uid"] == rows[0]["sop_instance_uid"]


def test_a_copy_of_an_image_counts_once(worked):
    assert worked.study("1.2.1")["images_scored"] == 3
    assert worked.study("1.2.1")["images_set_aside"] == 0
    copy = worked.file("1/copy of IM1")
    assert (worked.file("1/IM1")["outcome"], copy["reason"]) == ("scored", "duplicate")
    assert copy["study_key"] == "1.2.1"


def test_ranks_count_from_the_most_likely_and_ties_go_by_key(worked):
    ranked = [study for study in worked.worklist if study["rank"] is not None]
    assert [study["rank"] for study in ranked] == list(range(1, len(ranked) + 1))
    order = [(-study["likelihood"], study["study_key"]) for study in ranked]
    assert order == sorted(order)
    a, b = worked.study("1.2.7"), worked.study("1.2.8")
    assert a["likelihood"] == b["likelihood"]
    assert b["rank"] == a["rank"] + 1


def test_a_study_of_broken_images_stands_first_without_a_rank(worked):
    first, second, third = worked.worklist[:3]
    assert [first["study_key"], second["study_key"]] == ["1.2.4", "1.2.9"]
    for study, reason in ((first, "corrupt"), (second, "truncated")):
        assert study["band"] == "not_scored"
        assert study["rank"] is study["likelihood"] is study["top_file_key"] is None
        assert study["reasons"] == [reason]
        assert (study["images_scored"], study["images_set_aside"]) == (0, 1)
    assert (third["rank"], third["band"]) == (1, "ranked")


def test_a_partly_read_study_is_ranked_and_says_what_it_lacks(worked):
    study = worked.study("1.2.3")
    assert (study["band"], study["images_scored"], study["images_set_aside"]) == ("ranked", 1, 2)
    assert study["reasons"] == ["flat", "truncated"]
    assert worked.file("partly/short")["study_key"] == "1.2.3"


def test_an_image_without_a_study_is_one_of_its_own(worked):
    for path in ("plain/a.png", "plain/b.png", "no study"):
        row = worked.file(path)
        assert row["study_key"] == row["file_key"]
        assert worked.study(row["file_key"])["images_scored"] == 1


def test_a_folder_may_make_a_study_of_plain_images(tmp_path, scorer, reading_here):
    root = tmp_path / "export"
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/c/1.png")):
        put(root, name, plain(number))
    put(root, "a/IM1", dicom(9, "1.2.3"))
    put(root, "x.zip", archive(("1.png", plain(11)), ("2.png", plain(12))))
    with reading_here():
        run = score(root, tmp_path / "worklist.parquet", scorer, group_by=GroupBy.FOLDER)
    groups = [{run.paths[key] for key in study["image_file_keys"]} for study in run.worklist]
    assert sorted(map(sorted, groups)) == [
        ["a/1.png", "a/2.png"],
        ["a/IM1"],
        ["b/1.png"],
        ["b/c/1.png"],
        ["x.zip/1.png", "x.zip/2.png"],
    ]


def test_a_folder_of_the_mura_archive_is_a_study(tmp_path, scorer, reading_here):
    root = tmp_path / "export"
    study = "MURA-v1.1/valid/XR_WRIST/patient11185/study1_positive"
    for number in (1, 2):
        put(root, f"{study}/image{number}.png", plain(number))
    put(root, "MURA-v1.1/valid/XR_WRIST/patient11185/study2_negative/image1.png", plain(3))
    with reading_here():
        run = score(root, tmp_path / "worklist.parquet", scorer)
    assert sorted(study["images_scored"] for study in run.worklist) == [1, 2]


def test_headers_of_an_image_that_is_set_aside_still_fill_the_study(worked):
    study = worked.study("1.2.9")
    assert study["modality"] == "DX"
    assert study["study_instance_uid"] == "1.2.9"


def test_another_picture_under_a_used_uid_is_scored_and_marked(tmp_path, scorer, reading_here):
    """Some anonymisers write one SOPInstanceUID into every file."""
    root = tmp_path / "export"
    constant = {"SOPInstanceUID": "1.2.3"}
    put(root, "1", dicom(1, "1.1", **constant))
    put(root, "2", dicom(2, "1.2", **constant))
    put(root, "3", dicom(2, "1.2", **constant))
    with reading_here():
        run = score(root, tmp_path / "worklist.parquet", scorer)
    assert {row["study_key"] for row in run.worklist} == {"1.1", "1.2"}
    by_path = {run.paths[row["file_key"]]: row for row in run.files}
    assert by_path["1"]["notes"] == by_path["2"]["notes"] == ["uid_reused"]
    assert by_path["3"]["reason"] == "duplicate"


# One picture, one likelihood


def forms():
    """One picture in every form in which it may come, and once with its greys reversed."""
    values = {bits: pixels(2, bits, shape=(80, 64)) for bits in (8, 12, 16)}
    for bits, stored in values.items():
        window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
        yield f"{bits} bits", dicom_bytes(stored, bits=bits, **window)
        inverse = dicom_bytes(2**bits - 1 - stored, bits=bits, photometric="MONOCHROME1", **window)
        yield f"{bits} bits, MONOCHROME1", inverse
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    lossy = (JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
    for syntax in (*LOSSLESS, *lossy):
        yield syntax.name, dicom_bytes(values[12], bits=12, syntax=syntax, **window)
    stream = io.BytesIO()
    PillowImage.fromarray(values[8].astype(np.uint8)).save(stream, "PNG")
    yield "PNG", stream.getvalue()
    yield "reversed", dicom_bytes(255 - values[8], bits=8)


def test_the_same_picture_has_the_same_likelihood_in_every_form(tmp_path, scorer, reading_here):
    root = tmp_path / "export"
    for name, data in forms():
        put(root, name.replace("/", " "), data)
    with reading_here():
        run = score(root, tmp_path / "worklist.parquet", scorer)
    likelihoods = {run.paths[row["file_key"]]: row["raw_likelihood"] for row in run.files}
    reverse = likelihoods.pop("reversed")
    reference = likelihoods["8 bits"]
    assert abs(reverse - reference) > 5 * SAME, "this network cannot tell pictures apart"
    assert likelihoods == pytest.approx(dict.fromkeys(likelihoods, reference), abs=SAME)
    assert len(likelihoods) == 6 + len(LOSSLESS) + 4 + 1


def test_each_reason_is_a_failure_unless_nothing_was_lost(tmp_path, scorer, reading_here):
    for kind, (data, _) in CONTENTS.items():
        put(tmp_path / "export", kind, data)
    with reading_here():
        run = score(tmp_path / "export", tmp_path / "worklist.parquet", scorer)
    for row in run.files:
        assert row["is_failure"] == bool(row["reason"] and Reason(row["reason"]).is_failure)


# The order, and what decides it


HOUR = timedelta(hours=1)


def image(number, reason=None, likelihood=0.5, uid=None, picture=None, position=None, **facts):
    """An image as the state holds it: picture ``n`` is grey of level ``n``, and else its own."""
    header = Header(sop_instance_uid=uid, **facts) if uid or facts else None
    account = Account(
        reason=reason, header=header, likelihood=None if reason else likelihood, detail="a line"
    )
    is_read = reason in (None, Reason.UNFAMILIAR)
    thumbnail = bytes([picture or 0] * 256) if is_read else None
    digest = f"own {number}" if picture is None else f"{picture}"
    record = Record(account, "study", thumbnail, digest.encode() if is_read else None)
    return Image(number, position or number, 1_700_000_000, record)


def study(*images):
    resolved = resolve(images, preview=lambda _: None, is_reused=lambda _: False)
    return Study(tuple(outcome for outcome in resolved if outcome.concerns_study))


reasons = st.sampled_from([reason for reason in Reason if reason.concerns_study])


@given(st.lists(reasons, min_size=1))
def test_a_study_without_a_score_is_in_the_band_that_calls_loudest(given_reasons):
    band = study(*(image(n, reason) for n, reason in enumerate(given_reasons))).band
    harmless = {Reason.UNFAMILIAR, Reason.OUT_OF_SCOPE}
    if set(given_reasons) - harmless:
        assert band == Band.NOT_SCORED
    elif Reason.UNFAMILIAR in given_reasons:
        assert band == Band.UNFAMILIAR
    else:
        assert band == Band.OUT_OF_SCOPE


@given(st.lists(reasons), st.lists(st.floats(0, 1), min_size=1))
def test_one_score_ranks_a_study_and_nothing_else_moves_its_mean(given_reasons, likelihoods):
    images = [image(n, reason) for n, reason in enumerate(given_reasons)]
    images += [image(99 + n, likelihood=value) for n, value in enumerate(likelihoods)]
    made = study(*images)
    assert made.band == Band.RANKED
    assert made.raw_likelihood == pytest.approx(np.mean(likelihoods))
    assert made.raw_likelihood == np.float32(made.raw_likelihood)  # as the table has it
    assert len(made.set_aside) == len(given_reasons)


@given(st.lists(st.tuples(st.sampled_from(["1.1", "1.2", None]), st.integers(0, 3)), max_size=8))
def test_each_picture_of_an_instance_counts_once(given_images):
    images = [
        image(n, uid=uid, picture=picture * 20) for n, (uid, picture) in enumerate(given_images)
    ]
    outcomes = resolve(images, preview=lambda _: None, is_reused=lambda _: False)
    counted = [outcome for outcome in outcomes if outcome.reason is None]
    with_uid = {(uid, picture) for uid, picture in given_images if uid}
    without_uid = {picture for uid, picture in given_images if not uid}
    assert len(counted) == len(with_uid) + len(without_uid)
    for outcome in counted:
        header = outcome.account.header
        twins = {picture for uid, picture in with_uid if header and uid == header.sop_instance_uid}
        assert ("uid_reused" in outcome.notes) == (len(twins) > 1)


def test_a_lossy_copy_is_a_copy_and_says_that_it_differs():
    original, lossy = image(1, uid="1.1", picture=100), image(2, uid="1.1", picture=103)
    first, second = resolve([original, lossy], preview=lambda _: None, is_reused=lambda _: False)
    assert (first.reason, first.notes) == (None, ())
    assert (second.reason, second.notes) == (Reason.DUPLICATE, ("copy_differs",))


def test_of_what_is_decoded_in_part_no_pixels_are_compared(tmp_path, scorer, reading_here):
    uids = {"SOPInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    size = scorer.manifest.preprocess.image_size
    large = pixels(0, shape=(5 * size, 4 * size))
    for name, syntax in (("A", LOSSLESS[1]), ("B", JPEG2000Lossless), ("C", LOSSLESS[1])):
        data = dicom_bytes(large, bits=12, syntax=syntax, **uids, **window)
        put(tmp_path / "export", name, data)
    run = score(tmp_path / "export", tmp_path / "out.parquet", scorer)
    first, part, same = (run.file(name) for name in "ABC")
    assert (first["decoder"], part["decoder"]) == ("pydicom", "pillow")
    assert (part["reason"], part["notes"]) == (same["reason"], same["notes"]) == ("duplicate", [])
    assert part["raw_likelihood"] is None
    alone = tmp_path / "alone"
    put(alone, "B", (tmp_path / "export/B").read_bytes())
    (scored,) = score(alone, tmp_path / "alone.parquet", scorer).files
    assert scored["raw_likelihood"] == scorer.predict(alone / "B").raw_likelihood
    policy = ReadPolicy(full_resolution=True)
    (whole,) = score(alone, tmp_path / "whole.parquet", scorer, policy=policy).files
    assert whole["raw_likelihood"] == first["raw_likelihood"]


def test_a_broken_copy_of_an_image_that_was_read_is_no_loss():
    broken, whole = image(1, Reason.TRUNCATED, uid="1.1"), image(2, uid="1.1")
    first, second = resolve([broken, whole], preview=lambda _: None, is_reused=lambda _: False)
    assert (first.is_lost, first.notes, first.reason) == (False, ("copy_read",), Reason.TRUNCATED)
    made = study(broken, whole)
    assert (len(made.scored), made.set_aside) == (1, [])
    assert second.notes == ()
    (alone,) = resolve([broken], preview=lambda _: None, is_reused=lambda _: False)
    assert alone.is_lost


@pytest.mark.parametrize("reason", [Reason.TRUNCATED, Reason.OUT_OF_SCOPE])
def test_copies_that_are_set_aside_alike_are_one_image(reason):
    copies = [image(number, reason, uid="1.1") for number in (1, 2, 3)]
    other = image(4, reason, uid="1.2")
    assert len(study(*copies, other).images) == 2
    outcomes = resolve(copies, preview=lambda _: None, is_reused=lambda _: False)
    assert [outcome.is_lost for outcome in outcomes] == [reason.is_failure, False, False]
    assert [outcome.notes for outcome in outcomes] == [(), ("copy_unread",), ("copy_unread",)]


def test_a_file_that_fails_whole_is_no_loss_beside_a_copy_whose_frames_were_read():
    frames = [
        replace(one, record=replace(one.record, account=replace(one.record.account, frame=frame)))
        for frame, one in ((n, image(n, uid="1.1", picture=100 * n)) for n in (1, 2))
    ]
    cut = image(3, Reason.TRUNCATED, uid="1.1")
    *_, outcome = resolve([*frames, cut], preview=lambda _: None, is_reused=lambda _: False)
    assert (outcome.is_lost, outcome.concerns_study, outcome.notes) == (
        False,
        False,
        ("copy_read",),
    )


def test_what_the_model_must_not_judge_is_not_called_unread_beside_its_copy():
    aside, scored = image(1, Reason.OUT_OF_SCOPE, uid="1.1"), image(2, uid="1.1")
    first, _ = resolve([aside, scored], preview=lambda _: None, is_reused=lambda _: False)
    assert (first.notes, first.concerns_study) == ((), True)


def test_a_device_with_one_uid_for_all_costs_no_square_of_time():
    rng = np.random.default_rng(0)
    images = [
        replace(
            image(n, uid="1.1"),
            record=Record(
                Account(header=Header(sop_instance_uid="1.1"), likelihood=0.5),
                "study",
                rng.bytes(256),
                f"{n}".encode(),
            ),
        )
        for n in range(300)
    ]
    compared = []

    def counted(record, other):
        compared.append(record)
        return same_picture(record, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "same_picture", counted)
        outcomes = resolve(images, preview=lambda _: None, is_reused=lambda _: False)
    assert all(outcome.notes == ("uid_reused",) for outcome in outcomes)
    assert len(compared) <= studies.MOST_PICTURES * len(images)


def test_two_patients_under_one_study_uid_are_two_studies():
    bart, lisa = image(1, patient_tag=1), image(2, patient_tag=2)
    unnamed = image(3, uid="1.3")
    assert split_patients([bart, image(2, patient_tag=1)]) == [[bart, image(2, patient_tag=1)]]
    assert split_patients([bart, unnamed]) == [[bart, unnamed]]
    assert split_patients([bart, lisa, unnamed]) == [[bart], [lisa], [unnamed]]


def test_a_study_waits_since_it_was_acquired():
    plain_image = study(image(1))
    assert plain_image.waiting_since(UTC) == datetime(2023, 11, 14, 22, 13, 20)
    assert plain_image.waiting_since(timezone(-HOUR)) == datetime(2023, 11, 14, 21, 13, 20)
    times = {"study_datetime": "2026-01-02T09:00", "acquisition_datetime": "2026-01-02T10:30:00.5"}
    waiting = study(image(1, **times), image(2, study_datetime="2026-01-02T11"))
    assert waiting.waiting_since(UTC) == datetime(2026, 1, 2, 10, 30, 0, 500_000)
    noon = datetime(2026, 1, 2, 12, tzinfo=timezone(5 * HOUR))
    assert waiting.is_overdue(noon, HOUR)
    assert not waiting.is_overdue(noon, 2 * HOUR)
    assert not waiting.is_overdue(noon, None)
    assert not study(image(1, study_datetime="2026-01-03")).is_overdue(noon, HOUR)
    assert not study(image(1, Reason.CORRUPT, uid="1.1", **times)).is_overdue(noon, HOUR)


def test_what_has_waited_too_long_is_read_first(tmp_path, scorer, reading_here):
    root = tmp_path / "export"
    today, long_ago, longer_ago = (
        (datetime.now() - timedelta(hours=hours)).strftime("%Y%m%d %H%M%S").split()
        for hours in (1, 50, 60)
    )
    for number, (day, clock) in enumerate([today] * 3 + [long_ago] * 2 + [longer_ago] * 2):
        facts = {"StudyDate": day, "StudyTime": clock}
        put(root, f"IM{number}", dicom(number, f"1.2.{number}", **facts))
    put(root, "broken", dicom(9, "1.2.9", StudyDate="19990101")[:-1000])
    with reading_here():
        plain_order = score(root, tmp_path / "a.parquet", scorer)
        capped = score(
            root, tmp_path / "b.parquet", scorer, presentation=Presentation(max_wait=24 * HOUR)
        )
    assert not any(row["is_overdue"] for row in plain_order.worklist)
    assert capped.metadata["studies_overdue"] == 4
    assert capped.metadata["max_wait_hours"] == 24
    keys = [row["study_key"] for row in capped.worklist]
    assert keys[0] == "1.2.9"
    assert set(keys[1:3]) == {"1.2.5", "1.2.6"}
    assert set(keys[3:5]) == {"1.2.3", "1.2.4"}
    assert [row["rank"] for row in capped.worklist] == [None, *range(1, 8)]
    by_rank = {row["study_key"]: row["rank"] for row in plain_order.worklist}
    assert keys[5:] == sorted(keys[5:], key=by_rank.get)

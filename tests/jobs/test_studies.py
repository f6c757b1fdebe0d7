"""Which image counts towards which study, and in which order the studies stand."""

import io

import numpy as np
import pytest
from exports import CONTENTS, archive, check_conserved, dicom, pixels, plain, put, score
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import HTJ2K, JPEG2000, JPEGExtended12Bit, JPEGLSNearLossless

from fracjax.image import Header, Reason
from fracjax_jobs.studies import Study, rank
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
        "BodyPartExamined": "WRIST",
    }
    put(root, "1/IM1", dicom(1, "1.2.1", **facts))
    put(root, "2/deep/IM1", dicom(2, "1.2.1", SeriesInstanceUID="1.2.1.9"))
    put(root, "3.zip", archive(("IM1", dicom(3, "1.2.1")), ("IM2", dicom(4, "1.2.2"))))
    put(root, "4.zip", archive(("IM3", dicom(5, "1.2.2"))))
    put(root, "1/copy of IM1", dicom(1, "1.2.1"))
    put(root, "partly/good", dicom(6, "1.2.3"))
    put(root, "partly/short", dicom(7, "1.2.3")[:-1000])
    put(root, "partly/flat", dicom(8, "1.2.3", PixelData=b"\0" * 48 * 40 * 2))
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
    told = ("study_instance_uid", "accession_number", "study_datetime", "modality", "body_part")
    assert [study[name] for name in told] == ["1.2.1", "A77", "2025-01-31T08:15", "DX", "WRIST"]


def test_its_likelihood_is_the_mean_of_its_images(worked):
    for study in worked.worklist:
        likelihoods = study["image_likelihoods"]
        if likelihoods:
            assert study["likelihood"] == pytest.approx(np.mean(likelihoods), abs=1e-6)
            assert likelihoods == sorted(likelihoods, reverse=True)
    by_key = {row["file_key"]: row for row in worked.files}
    for study in worked.worklist:
        rows = [by_key[key] for key in study["image_file_keys"]]
        assert [row["likelihood"] for row in rows] == study["image_likelihoods"]
        assert all(row["study_key"] == study["study_key"] for row in rows)
        if rows:
            assert study["top_file_key"] == rows[0]["file_key"]
            assert study["top_sop_instance_uid"] == rows[0]["sop_instance_uid"]


def test_a_copy_of_an_image_counts_once(worked):
    assert worked.study("1.2.1")["images_scored"] == 3
    assert worked.study("1.2.1")["images_set_aside"] == 0
    copy = worked.file("1/copy of IM1")
    assert (worked.file("1/IM1")["outcome"], copy["reason"]) == ("scored", "duplicate")
    assert copy["study_key"] is None


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
        assert study["status"] == "not_scored"
        assert study["rank"] is study["likelihood"] is study["top_file_key"] is None
        assert study["set_aside_reasons"] == [reason]
        assert (study["images_scored"], study["images_set_aside"]) == (0, 1)
    assert (third["rank"], third["status"]) == (1, "scored")


def test_a_partly_read_study_is_ranked_and_says_what_it_lacks(worked):
    study = worked.study("1.2.3")
    assert (study["status"], study["images_scored"], study["images_set_aside"]) == ("scored", 1, 2)
    assert study["set_aside_reasons"] == ["flat", "truncated"]
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
        run = score(root, tmp_path / "worklist.parquet", scorer, group_by="folder")
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


studies = st.builds(
    lambda key, likelihoods: Study(str(key), Header(), likelihoods=likelihoods),
    st.integers(0, 99),
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=3),
)


@given(st.lists(studies, unique_by=lambda study: study.key))
def test_each_study_has_one_place(given_studies):
    ranked = rank(given_studies)
    assert sorted(id(study) for _, study in ranked) == sorted(id(study) for study in given_studies)
    unscored = [study for position, study in ranked if position is None]
    scored = [(position, study) for position, study in ranked if position is not None]
    assert ranked[: len(unscored)] == [(None, study) for study in unscored]
    assert [study.key for study in unscored] == sorted(study.key for study in unscored)
    assert [position for position, _ in scored] == list(range(1, len(scored) + 1))
    order = [(-study.likelihood, study.key) for _, study in scored]
    assert order == sorted(order)


@given(st.lists(studies, unique_by=lambda study: study.key), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_files(given_studies, random):
    shuffled = list(given_studies)
    random.shuffle(shuffled)
    assert rank(shuffled) == rank(given_studies)


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
    assert by_path["1"]["notes"] == []
    assert by_path["2"]["notes"] == ["uid_reused"]
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
    Image.fromarray(values[8].astype(np.uint8)).save(stream, "PNG")
    yield "PNG", stream.getvalue()
    yield "reversed", dicom_bytes(255 - values[8], bits=8)


def test_the_same_picture_has_the_same_likelihood_in_every_form(tmp_path, scorer, reading_here):
    root = tmp_path / "export"
    for name, data in forms():
        put(root, name.replace("/", " "), data)
    with reading_here():
        run = score(root, tmp_path / "worklist.parquet", scorer)
    likelihoods = {run.paths[row["file_key"]]: row["likelihood"] for row in run.files}
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
    harmless = {"not_an_image", "not_a_radiograph", "duplicate"}
    for row in run.files:
        assert row["is_failure"] == bool(row["reason"] and row["reason"] not in harmless)
    assert {reason for reason in Reason if not reason.is_failure} == harmless

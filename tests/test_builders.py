"""The builders on the dummy archives, and FracAtlas on its real part; none needs TensorFlow."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

import make_dummy_data as dummy
from fracjax.errors import DataError
from fracjax.image import read_picture
from fracjax.image.raster import decode_gray
from tfds_mura import schema
from tfds_mura.frac_atlas import FracAtlas
from tfds_mura.frac_atlas import frac_atlas_dataset_builder as frac_atlas
from tfds_mura.grazpedwri_dx import GrazpedwriDx
from tfds_mura.mura import Mura
from tfds_mura.own_images import OwnImages
from tfds_mura.rsna_cervical_spine import RsnaCervicalSpine
from tfds_mura.rsna_cervical_spine import rsna_cervical_spine_dataset_builder as rsna

REPOSITORY = Path(__file__).parents[1]
BUILDERS = (FracAtlas, Mura, GrazpedwriDx, RsnaCervicalSpine, OwnImages)
ARCHIVES = {builder: REPOSITORY / "tfds_mura" / builder.name / "dummy_data" for builder in BUILDERS}
PLAIN = (FracAtlas, Mura)
"""Whose files are 8-bit pictures, kept as they are."""
RELEASES = BUILDERS[:-1]


def read(builder_class, data_dir):
    """Read a built set as lists of examples by split."""
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def by_source(splits):
    return {example["source"].decode(): example for split in splits.values() for example in split}


def build(builder_class, manual_dir, data_dir):
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )


def assert_splits_share_no_group(splits):
    groups = {split: {ex["group"] for ex in examples} for split, examples in splits.items()}
    for one, other in combinations(groups, 2):
        assert not groups[one] & groups[other], (one, other)


def copy_archive(builder_class, tmp_path):
    return Path(shutil.copytree(ARCHIVES[builder_class], tmp_path / "manual"))


# What is built


def test_dummy_data_is_what_its_script_makes(tmp_path):
    for name, make in dummy.MAKERS.items():
        make(tmp_path / name)
    for builder, committed in ARCHIVES.items():
        made = tmp_path / builder.name
        files = {file.relative_to(made) for file in made.rglob("*") if file.is_file()}
        assert files == {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
        for file in files:
            if file.suffix in (".csv", ".json"):
                assert (made / file).read_bytes() == (committed / file).read_bytes()


def test_feature_schemas_are_equal(data_dir):
    schemas = [builder(data_dir=data_dir).info.features.to_json() for builder in BUILDERS]
    assert all(other == schemas[0] for other in schemas)


def test_the_schema_survives_reading_from_the_directory_alone(data_dir):
    builder = tfds.builder_from_directory(data_dir / "mura" / "1.1.0")
    assert isinstance(builder.info.features["image"], schema.GrayImage)


@pytest.mark.parametrize("builder_class", PLAIN)
def test_pixels_are_those_of_the_source_file(builder_class, data_dir):
    (archive,) = ARCHIVES[builder_class].iterdir()
    for source, example in by_source(read(builder_class, data_dir)).items():
        pixels, _, notes = decode_gray((archive / source).read_bytes())
        assert example["image"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], pixels[..., np.newaxis], err_msg=source)
        assert example["truncated"] == ("truncated_rows" in notes)


@pytest.mark.parametrize("builder_class", PLAIN)
def test_the_files_own_bytes_are_kept(builder_class, data_dir):
    (archive,) = ARCHIVES[builder_class].iterdir()
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    for split in builder.info.splits:
        stored = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for example in stored:
            own = (archive / example["source"].decode()).read_bytes()
            assert (example["image"] == own) == (not example["truncated"])


@pytest.mark.parametrize("builder_class", [GrazpedwriDx, OwnImages])
def test_what_is_stored_is_what_scoring_shows_of_the_file(builder_class, data_dir):
    archive = ARCHIVES[builder_class]
    if builder_class in RELEASES:
        (archive,) = archive.iterdir()
    kinds = set()
    for source, example in by_source(read(builder_class, data_dir)).items():
        picture = read_picture((archive / source).read_bytes())
        kinds.add(picture.voi_source)
        shown = np.rint(picture.display * 255).astype(np.uint8)
        np.testing.assert_array_equal(example["image"][..., 0], shown, err_msg=source)
    assert kinds >= {"percentile"}


def test_frac_atlas_counts_and_folds(data_dir):
    folds = read(FracAtlas, data_dir)
    assert list(folds) == [f"fold_{fold}" for fold in range(5)]
    assert sum(map(len, folds.values())) == 22
    assert all(
        0 < sum(ex["label"] for ex in examples) < len(examples) for examples in folds.values()
    )
    assert_splits_share_no_group(folds)
    assert {ex["target"] for ex in by_source(folds).values()} == {b"fracture"}


def test_frac_atlas_leaves_out_contradictory_labels(data_dir):
    ids = {int(ex["study_id"][3:]) for ex in by_source(read(FracAtlas, data_dir)).values()}
    assert not ids & {dummy.CONTRADICTORY_ID, dummy.MISFILED_ID}


def test_frac_atlas_leaves_copies_out_and_moves_nothing_else(data_dir, tmp_path, monkeypatch):
    copy = "images/Fractured/IMG0000041.jpg"
    monkeypatch.setattr(frac_atlas, "COPIES", {Path(copy).name})
    build(FracAtlas, ARCHIVES[FracAtlas], tmp_path)
    before, after = (read(FracAtlas, directory) for directory in (data_dir, tmp_path))
    assert copy in by_source(before)
    kept = {
        fold: [ex["source"] for ex in examples if ex["source"].decode() != copy]
        for fold, examples in before.items()
    }
    assert {fold: [ex["source"] for ex in examples] for fold, examples in after.items()} == kept


def test_frac_atlas_honours_groups_csv(data_dir):
    examples = by_source(read(FracAtlas, data_dir)).values()
    pair = [ex for ex in examples if int(ex["study_id"][3:]) in dummy.FAR_PAIR]
    assert [ex["group"] for ex in pair] == [b"1", b"1"]


def test_frac_atlas_without_groups_csv_groups_blocks_of_ids(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    (manual_dir / "FracAtlas/groups.csv").unlink()
    build(FracAtlas, manual_dir, tmp_path / "tfds")
    folds = read(FracAtlas, tmp_path / "tfds")
    assert_splits_share_no_group(folds)
    for example in by_source(folds).values():
        assert example["group"].decode() == f"block-{int(example['study_id'][3:]) // 20}"


def test_frac_atlas_boxes_frame_the_finding_also_where_exif_turns_the_picture(data_dir):
    examples = by_source(read(FracAtlas, data_dir))
    assert f"images/Fractured/IMG{dummy.ROTATED_ID:07d}.jpg" in examples
    for source, example in examples.items():
        assert len(example["boxes"]) == example["label"], source
        height, width, _ = example["image"].shape
        for box in example["boxes"]:
            top, left, bottom, right = np.rint(box * [height, width, height, width]).astype(int)
            inside = example["image"][top:bottom, left:right]
            assert inside.min() > 180, source
            assert (example["image"] > 180).sum() < 1.2 * inside.size, source


def test_frac_atlas_crops_and_flags_truncated_files(data_dir):
    truncated = [ex for ex in by_source(read(FracAtlas, data_dir)).values() if ex["truncated"]]
    assert [int(ex["study_id"][3:]) for ex in truncated] == [dummy.TRUNCATED_ID]
    height, width, _ = truncated[0]["image"].shape
    assert 0 < height < 32
    assert width == 40


def test_frac_atlas_regions_views_and_hardware(data_dir):
    examples = by_source(read(FracAtlas, data_dir))
    mixed = examples["images/Non_fractured/IMG0004100.jpg"]
    assert mixed["body_part"] == b"leg+shoulder"
    assert mixed["view"] == b"frontal+lateral"
    assert [s for s, ex in examples.items() if ex["hardware"]] == [
        "images/Fractured/IMG0000021.jpg"
    ]


def test_mura_counts_and_labels(data_dir):
    splits = read(Mura, data_dir)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 6, "valid": 3}
    examples = by_source(splits)
    assert set(examples) == set(dummy.MURA_IMAGES)
    for source, example in examples.items():
        assert example["label"] == ("_positive/" in source)
        assert example["target"] == b"abnormality"
        assert example["hardware"] == -1
        assert example["view"] == b""
        assert len(example["boxes"]) == 0
        assert example["body_part"].decode() == source.split("/")[1].removeprefix("XR_").lower()


def test_mura_studies_are_unique_and_groups_are_patients(data_dir):
    splits = read(Mura, data_dir)
    assert_splits_share_no_group(splits)
    folders = {}
    for source, example in by_source(splits).items():
        folders.setdefault(example["study_id"], set()).add(source.rpartition("/")[0])
        assert example["group"].decode() == source.split("/")[2]
    assert all(len(studies) == 1 for studies in folders.values())
    assert len(folders) == 7


def assert_boxes_frame_the_bright_patch(examples):
    for source, example in examples.items():
        height, width, _ = example["image"].shape
        for box in example["boxes"]:
            top, left, bottom, right = np.rint(box * [height, width, height, width]).astype(int)
            inside = example["image"][top:bottom, left:right].astype(float)
            rest = example["image"].astype(float)
            rest[top:bottom, left:right] = 0
            assert inside.mean() > 1.5 * rest.max(), source


def test_grazpedwri_dx_folds_share_no_patient_and_leave_out_the_uncertain(data_dir):
    folds = read(GrazpedwriDx, data_dir)
    assert list(folds) == [f"fold_{fold}" for fold in range(5)]
    assert_splits_share_no_group(folds)
    names = {Path(source).stem for source in by_source(folds)}
    assert len(names) == 2 * dummy.GRAZ_PATIENTS - 1
    assert dummy.GRAZ_UNCERTAIN not in names
    assert {ex["group"] for ex in by_source(folds).values()} == {
        str(patient).encode() for patient in range(1, dummy.GRAZ_PATIENTS + 1)
    }


def test_grazpedwri_dx_labels_the_image_not_the_wrist(data_dir):
    examples = {Path(s).stem: ex for s, ex in by_source(read(GrazpedwriDx, data_dir)).items()}
    occult = examples[dummy.GRAZ_OCCULT]
    other = examples["0002_0000000002_01_WRI-L2_F008"]
    assert (occult["label"], other["label"]) == (0, 1)
    assert (list(occult["findings"]), list(other["findings"])) == ([], [b"ao:23r-M/2.1"])
    assert (occult["view"], other["view"]) == (b"frontal", b"lateral")
    assert occult["study_id"] == other["study_id"]


def test_grazpedwri_dx_findings_come_of_the_table_and_of_the_boxes(data_dir):
    examples = by_source(read(GrazpedwriDx, data_dir)).values()
    by_group = {int(ex["group"]): ex for ex in examples}
    assert list(by_group[6]["findings"]) == [b"cast", b"ao:23r-M/3.1", b"ao:23u-E/7"]
    assert list(by_group[7]["findings"]) == [b"osteopenia"]
    assert list(by_group[10]["findings"]) == [b"periostealreaction", b"ao:23r-M/2.1"]
    assert [group for group, ex in sorted(by_group.items()) if ex["hardware"]] == [8, 10]


def test_grazpedwri_dx_boxes_frame_the_fracture(data_dir):
    examples = by_source(read(GrazpedwriDx, data_dir))
    assert all(len(ex["boxes"]) == ex["label"] for ex in examples.values())
    assert_boxes_frame_the_bright_patch(examples)


def test_rsna_takes_boxed_slices_and_studies_without_fracture(data_dir):
    folds = read(RsnaCervicalSpine, data_dir)
    assert_splits_share_no_group(folds)
    examples = by_source(folds)
    positive = [ex for ex in examples.values() if ex["label"]]
    negative = [ex for ex in examples.values() if not ex["label"]]
    assert {int(ex["source"].decode().split("/")[2][:-4]) for ex in positive} == {3, 4}
    assert not any(int(ex["study_id"].decode().split(".")[-1]) % 2 == 0 for ex in negative)
    assert len(negative) == dummy.RSNA_SLICES * dummy.RSNA_STUDIES / 2
    assert dummy.RSNA_UNBOXED.encode() not in {ex["study_id"] for ex in examples.values()}
    assert all(len(ex["boxes"]) == ex["label"] for ex in examples.values())
    assert_boxes_frame_the_bright_patch(examples)


def test_rsna_slices_of_a_study_without_fracture_are_evenly_spaced(tmp_path):
    folder = tmp_path / "train_images" / "1.2"
    folder.mkdir(parents=True)
    for position in range(1, 401):
        (folder / f"{position}.dcm").touch()
    chosen = [position for _, position in rsna.choose_slices(tmp_path, {"1.2": 0}, {})]
    assert len(chosen) == rsna.NEGATIVE_SLICES
    assert (chosen[0], chosen[-1]) == (1, 400)
    assert set(np.diff(chosen)) == {21}


def test_rsna_slices_are_shown_in_the_window_for_bone(data_dir):
    (archive,) = ARCHIVES[RsnaCervicalSpine].iterdir()
    shown = rsna.read_slice(archive / "train_images/1.2.826.0.1.3680043.2/3.dcm")
    left, top, _, _ = dummy.BOX
    hounsfield = 12 * 240 - 1024
    wanted = (hounsfield - (rsna.BONE_CENTER - 0.5)) / (rsna.BONE_WIDTH - 1) + 0.5
    assert shown[top, left] == pytest.approx(min(wanted, 1), abs=1e-6)
    assert shown.min() == 0  # air


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
def test_rsna_compressed_slices_are_shown_as_native_ones(syntax, tmp_path):
    (archive,) = ARCHIVES[RsnaCervicalSpine].iterdir()
    native = archive / "train_images/1.2.826.0.1.3680043.2/3.dcm"
    dataset = dcmread(native)
    if syntax == JPEGLosslessSV1:
        stream = imagecodecs.ljpeg_encode(dataset.pixel_array, bitspersample=12)
    else:
        stream = imagecodecs.jpeg2k_encode(
            dataset.pixel_array, level=0, reversible=True, codecformat="j2k", bitspersample=12
        )
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "3.dcm")
    np.testing.assert_array_equal(rsna.read_slice(tmp_path / "3.dcm"), rsna.read_slice(native))


# What is refused, and how


def assert_refused(builder_class, manual_dir, tmp_path, *words):
    with pytest.raises(DataError) as refusal:
        build(builder_class, manual_dir, tmp_path / "tfds")
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize("builder_class", RELEASES)
def test_no_manual_directory(builder_class, tmp_path):
    way_out = {
        FracAtlas: "figshare",
        Mura: "research use agreement",
        GrazpedwriDx: "figshare",
        RsnaCervicalSpine: "Kaggle",
    }[builder_class]
    assert_refused(builder_class, tmp_path / "absent", tmp_path, str(tmp_path / "absent"), way_out)
    (tmp_path / "empty").mkdir()
    assert_refused(builder_class, tmp_path / "empty", tmp_path, str(tmp_path / "empty"), way_out)
    (tmp_path / "other/else").mkdir(parents=True)
    assert_refused(builder_class, tmp_path / "other", tmp_path, "is missing", way_out)


def test_frac_atlas_missing_column(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    table = manual_dir / "FracAtlas/dataset.csv"
    table.write_text(table.read_text().replace(",fracture_count,", ",count,"))
    assert_refused(FracAtlas, manual_dir, tmp_path, "fracture_count", "as released")


def test_frac_atlas_odd_value(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    table = manual_dir / "FracAtlas/dataset.csv"
    table.write_text(table.read_text().replace("0000.jpg,0", "0000.jpg,yes"))
    assert_refused(FracAtlas, manual_dir, tmp_path, "hand 'yes' for IMG0000000", "as released")


@pytest.mark.parametrize("content", ['{"images": [', '{"images": []}', "[]", "\xff"])
def test_frac_atlas_damaged_boxes(content, tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    boxes = manual_dir / "FracAtlas/Annotations/COCO JSON/COCO_fracture_masks.json"
    boxes.write_text(content, encoding="latin-1")
    assert_refused(FracAtlas, manual_dir, tmp_path, boxes.name, "as released")


def test_frac_atlas_odd_name(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    table = manual_dir / "FracAtlas/dataset.csv"
    table.write_text(table.read_text().replace("IMG0000020", "X"))
    assert_refused(FracAtlas, manual_dir, tmp_path, "image_id 'X.jpg'", "as released")


@pytest.mark.parametrize(
    ("builder_class", "name"),
    [
        (FracAtlas, "FracAtlas/dataset.csv"),
        (GrazpedwriDx, "GRAZPEDWRI-DX/dataset.csv"),
        (RsnaCervicalSpine, "rsna-2022-cervical-spine-fracture-detection/train.csv"),
        (Mura, "MURA-v1.1/train_image_paths.csv"),
    ],
)
def test_a_table_that_is_no_text(builder_class, name, tmp_path):
    manual_dir = copy_archive(builder_class, tmp_path)
    (manual_dir / name).write_bytes(b"\xff\xfe" + (manual_dir / name).read_bytes())
    assert_refused(builder_class, manual_dir, tmp_path, name, "no text", "as released")


def test_an_archive_that_was_cut_short(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    table = manual_dir / "FracAtlas/dataset.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:4]))
    assert_refused(FracAtlas, manual_dir, tmp_path, "too few for 5 folds", "whole archive")


def test_frac_atlas_missing_file(tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    (manual_dir / "FracAtlas/images/Non_fractured/IMG0000020.jpg").unlink()
    assert_refused(FracAtlas, manual_dir, tmp_path, "IMG0000020.jpg", "unpack")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("image_id,group", "image,group"), ("no column image_id",)),
        (("IMG0000020", "IMG0009999"), ("no group for IMG0000020.jpg", "remove it")),
    ],
)
def test_frac_atlas_odd_groups(change, words, tmp_path):
    manual_dir = copy_archive(FracAtlas, tmp_path)
    groups = manual_dir / "FracAtlas/groups.csv"
    groups.write_text(groups.read_text().replace(*change))
    assert_refused(FracAtlas, manual_dir, tmp_path, *words)


def test_damaged_image(tmp_path):
    manual_dir = copy_archive(Mura, tmp_path)
    image = manual_dir / "MURA-v1.1" / dummy.MURA_IMAGES[0]
    image.write_bytes(image.read_bytes()[:200])
    assert_refused(Mura, manual_dir, tmp_path, dummy.MURA_IMAGES[0], "unpack")


def test_mura_missing_file(tmp_path):
    manual_dir = copy_archive(Mura, tmp_path)
    (manual_dir / "MURA-v1.1" / dummy.MURA_IMAGES[-1]).unlink()
    assert_refused(Mura, manual_dir, tmp_path, dummy.MURA_IMAGES[-1], "unpack MURA-v1.1.zip again")


def test_mura_label_that_is_not_its_folders(tmp_path):
    manual_dir = copy_archive(Mura, tmp_path)
    studies = manual_dir / "MURA-v1.1/train_labeled_studies.csv"
    studies.write_text(studies.read_text().replace("study2_negative/,0", "study2_negative/,1"))
    assert_refused(Mura, manual_dir, tmp_path, "study2_negative", "does not agree", "as released")


def test_mura_patient_in_both_splits(tmp_path):
    manual_dir = copy_archive(Mura, tmp_path)
    root = manual_dir / "MURA-v1.1"
    (root / "valid/XR_FOREARM/patient11186").rename(root / "valid/XR_FOREARM/patient00001")
    for path in root.glob("valid_*.csv"):
        path.write_text(path.read_text().replace("patient11186", "patient00001"))
    assert_refused(Mura, manual_dir, tmp_path, "patient00001 stands in both", "as released")


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("train_labeled_studies.csv", ("study2_negative/,0", "study2_negative/"), "1 columns"),
        ("train_image_paths.csv", ("image1.png", "image1.png,1"), "2 columns"),
        ("train_image_paths.csv", ("XR_ELBOW", "XR_KNEE"), "XR_KNEE"),
        ("valid_image_paths.csv", ("/valid/", "/train/"), "no study"),
    ],
)
def test_mura_odd_lists(name, change, word, tmp_path):
    manual_dir = copy_archive(Mura, tmp_path)
    path = manual_dir / "MURA-v1.1" / name
    path.write_text(path.read_text().replace(*change, 1))
    assert_refused(Mura, manual_dir, tmp_path, name, word, "as released")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((",fracture_visible,", ",fracture,"), ("no column fracture_visible", "as released")),
        ((",1,0.144", ",2,0.144"), ("metal '2'", "as released")),
        (("0001_0000000001", "0099_0000000001"), ("0099_0000000001", "images_part")),
    ],
)
def test_grazpedwri_dx_odd_table(change, words, tmp_path):
    manual_dir = copy_archive(GrazpedwriDx, tmp_path)
    table = manual_dir / "GRAZPEDWRI-DX/dataset.csv"
    table.write_text(table.read_text().replace(*change))
    assert_refused(GrazpedwriDx, manual_dir, tmp_path, *words)


@pytest.mark.parametrize("line", ["3 0.5 0.5 0.2", "9 0.5 0.5 0.2 0.2", "x 0 0 1 1"])
def test_grazpedwri_dx_odd_boxes(line, tmp_path):
    manual_dir = copy_archive(GrazpedwriDx, tmp_path)
    labels = manual_dir / "GRAZPEDWRI-DX/folder_structure/yolov5/labels"
    min(labels.iterdir()).write_text(line)
    assert_refused(GrazpedwriDx, manual_dir, tmp_path, line, "as released")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("train.csv", ("3680043.1,0,", "3680043.1,1,"), ("3680043.1", "as released")),
        ("train.csv", ("3680043.1,0,", "3680043.99,0,"), ("3680043.99", "unpack")),
        ("train.csv", ("3680043.2,1,0,1", "3680043.2,0,0,0"), ("3680043.2", "frames a fracture")),
        ("train_bounding_boxes.csv", ("24.0", "?"), ("no number", "as released")),
    ],
)
def test_rsna_odd_tables(name, change, words, tmp_path):
    manual_dir = copy_archive(RsnaCervicalSpine, tmp_path)
    table = manual_dir / "rsna-2022-cervical-spine-fracture-detection" / name
    table.write_text(table.read_text().replace(*change))
    assert_refused(RsnaCervicalSpine, manual_dir, tmp_path, *words)


def test_rsna_damaged_slice(tmp_path):
    manual_dir = copy_archive(RsnaCervicalSpine, tmp_path)
    root = manual_dir / "rsna-2022-cervical-spine-fracture-detection"
    slice_file = root / "train_images/1.2.826.0.1.3680043.1/1.dcm"
    slice_file.write_bytes(slice_file.read_bytes()[:900])
    assert_refused(RsnaCervicalSpine, manual_dir, tmp_path, "3680043.1/1.dcm", "unpack")


# What does not fit in memory


SHUFFLE_ON_DISK = """
import sys
from pathlib import Path
import tfds_mura.schema
from tensorflow_datasets.core import shuffle
from fracjax import data

shuffle.MAX_MEM_BUFFER_SIZE = int(sys.argv[3])
data.prepare("mura", Path(sys.argv[1]), Path(sys.argv[2]))
print("tensorflow" in sys.modules)
"""


def test_a_split_that_is_shuffled_on_disk_is_the_same_and_needs_no_tensorflow(tmp_path, run_python):
    splits = {}
    for held_bytes in (0, 10**9):
        folder = tmp_path / str(held_bytes)
        done = run_python("-c", SHUFFLE_ON_DISK, ARCHIVES[Mura], folder, held_bytes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "False", "TensorFlow was imported"
        examples = read(Mura, folder)
        splits[held_bytes] = {
            split: [ex["source"] for ex in rows] for split, rows in examples.items()
        }
        assert not list(folder.rglob("*.tmp"))
    assert splits[0] == splits[10**9]


# The real part of FracAtlas


@pytest.fixture(scope="module")
def real_root(shared):
    return shared / "data/FracAtlas"


@pytest.fixture(scope="module")
def real_rows(real_root):
    return [
        row
        for row in frac_atlas.read_rows(real_root)
        if not frac_atlas.is_contradictory(real_root, row)
    ]


def test_real_exclusions(real_root, real_rows):
    listed = {row["image_id"] for row in frac_atlas.read_rows(real_root)}
    left_out = listed - {row["image_id"] for row in real_rows}
    assert left_out == frac_atlas.CONTRADICTORY | {"IMG0003298.jpg"}


def test_real_copies_stand_in_a_fold(real_rows):
    assert {row["image_id"] for row in real_rows} >= frac_atlas.COPIES


def test_real_truncated_files(real_root, real_rows):
    def is_truncated(row):
        folder = frac_atlas.IMAGE_FOLDERS[row["fractured"]]
        return schema.intact_image(real_root / "images" / folder / row["image_id"])[1]

    with ThreadPoolExecutor(2) as pool:
        truncated = [
            row
            for row, cut in zip(real_rows, pool.map(is_truncated, real_rows), strict=True)
            if cut
        ]
    assert Counter(row["fractured"] for row in truncated) == {"0": 51}


@pytest.mark.parametrize("with_groups", [True, False])
def test_real_folds(with_groups, real_root, real_rows, tmp_path):
    names = [row["image_id"] for row in real_rows]
    groups = frac_atlas.read_groups(real_root if with_groups else tmp_path, names)
    folds = frac_atlas.assign_folds(real_rows, groups)
    assert sorted(index for fold in folds for index in fold) == list(range(len(real_rows)))
    members = [{groups[names[index]] for index in fold} for fold in folds]
    for one, other in combinations(members, 2):
        assert not one & other
    fractured = np.array([row["fractured"] == "1" for row in real_rows])
    rates = [fractured[fold].mean() for fold in folds]
    assert max(rates) - min(rates) < 0.03

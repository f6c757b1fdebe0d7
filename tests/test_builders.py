"""The builders on the dummy archives, and FracAtlas on its real part; none needs TensorFlow."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import make_dummy_data as dummy
from fracjax.errors import DataError
from fracjax.image.raster import decode_gray
from tfds_mura import schema
from tfds_mura.frac_atlas import FracAtlas
from tfds_mura.frac_atlas import frac_atlas_dataset_builder as frac_atlas
from tfds_mura.mura import Mura

REPOSITORY = Path(__file__).parents[1]
ARCHIVES = {
    FracAtlas: REPOSITORY / "tfds_mura/frac_atlas/dummy_data",
    Mura: REPOSITORY / "tfds_mura/mura/dummy_data",
}


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
    dummy.make_frac_atlas(tmp_path / FracAtlas.name)
    dummy.make_mura(tmp_path / Mura.name)
    for builder, committed in ARCHIVES.items():
        made = tmp_path / builder.name
        files = {file.relative_to(made) for file in made.rglob("*") if file.is_file()}
        assert files == {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
        for file in files:
            if file.suffix in (".csv", ".json"):
                assert (made / file).read_bytes() == (committed / file).read_bytes()


def test_feature_schemas_are_equal(data_dir):
    one, other = (builder(data_dir=data_dir).info.features for builder in ARCHIVES)
    assert one.to_json() == other.to_json()


def test_the_schema_survives_reading_from_the_directory_alone(data_dir):
    builder = tfds.builder_from_directory(data_dir / "mura" / "1.1.0")
    assert isinstance(builder.info.features["image"], schema.GrayImage)


@pytest.mark.parametrize("builder_class", ARCHIVES)
def test_pixels_are_those_of_the_source_file(builder_class, data_dir):
    (archive,) = ARCHIVES[builder_class].iterdir()
    for source, example in by_source(read(builder_class, data_dir)).items():
        pixels, _, notes = decode_gray((archive / source).read_bytes())
        assert example["image"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], pixels[..., np.newaxis], err_msg=source)
        assert example["truncated"] == ("truncated_rows" in notes)


@pytest.mark.parametrize("builder_class", ARCHIVES)
def test_the_files_own_bytes_are_kept(builder_class, data_dir):
    (archive,) = ARCHIVES[builder_class].iterdir()
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    for split in builder.info.splits:
        stored = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for example in stored:
            own = (archive / example["source"].decode()).read_bytes()
            assert (example["image"] == own) == (not example["truncated"])


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


# What is refused, and how


def assert_refused(builder_class, manual_dir, tmp_path, *words):
    with pytest.raises(DataError) as refusal:
        build(builder_class, manual_dir, tmp_path / "tfds")
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize("builder_class", ARCHIVES)
def test_no_manual_directory(builder_class, tmp_path):
    way_out = {FracAtlas: "figshare", Mura: "research use agreement"}[builder_class]
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

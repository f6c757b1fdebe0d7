"""MURA-v1.1 (Rajpurkar et al., arXiv 1712.06957) for TFDS."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fracjax.errors import DataError
from tfds_mura import schema

SPLITS = ("train", "valid")

ARCHIVE = "MURA-v1.1"
"""The archive's folder, and the beginning of every path in its lists."""

STUDY = re.compile(
    rf"{re.escape(ARCHIVE)}/(?P<split>train|valid)/XR_(?P<part>[A-Z]+)"
    r"/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<finding>positive|negative)/"
)

LABELS = {"negative": 0, "positive": 1}

Example = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """One image as the release lists it."""

    source: str
    label: int
    body_part: str
    study_id: str
    patient: str


class Mura(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """MURA-v1.1 in the release's own splits, ``train`` and ``valid``, that share no patient."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "Findings.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Register for MURA on the MURA page of the Stanford ML Group or of Stanford AIMI, accept
    Stanford's research use agreement, get MURA-v1.1.zip by the link you are sent, which must not
    be shared, and unpack it in the manual directory, so that MURA-v1.1/train_image_paths.csv and
    MURA-v1.1/train lie there.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(),
            supervised_keys=("image", "label"),
            homepage="https://stanfordmlgroup.github.io/competitions/mura/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Example]]]:
        lists = [
            f"{split}_{what}.csv" for split in SPLITS for what in ("image_paths", "labeled_studies")
        ]
        root = schema.find_archive(
            dl_manager, ARCHIVE, (*lists, *SPLITS), self.MANUAL_DOWNLOAD_INSTRUCTIONS
        )
        splits = {split: read_split(root, split) for split in SPLITS}
        check_patients(root, splits)
        return {split: self._generate_examples(root, listed) for split, listed in splits.items()}

    def _generate_examples(self, root: Path, images: list[Listed]) -> Iterator[tuple[str, Example]]:
        files = schema.ahead(schema.intact_image, (root / image.source for image in images))
        for image, (data, truncated) in zip(images, files, strict=True):
            yield (
                image.source,
                {
                    "image": data,
                    "label": image.label,
                    "target": "abnormality",
                    "body_part": image.body_part,
                    "view": "",
                    "study_id": image.study_id,
                    "group": image.patient,
                    "source": image.source,
                    "boxes": [],
                    "hardware": -1,
                    "findings": [],
                    "truncated": truncated,
                },
            )


def read_split(root: Path, split: str) -> list[Listed]:
    """Read the images that the release lists for a split, in the list's order.

    Only what is listed is read: the archive also holds macOS's ``._*`` files, which are no images.

    Raises:
        DataError: The list is not as the release has it, or a listed file is missing.
    """
    path = root / f"{split}_image_paths.csv"
    labels = read_labels(root, split)
    images = []
    for (listed,) in read_rows(path, columns=1):
        study = STUDY.match(listed)
        if not study or study["split"] != split or study[0] not in labels:
            raise DataError(
                f"{path} lists {listed}, which is in no study of {split}_labeled_studies.csv; "
                "use the lists as released"
            )
        source = listed.removeprefix(f"{ARCHIVE}/")
        if not (root / source).is_file():
            raise DataError(
                f"{root / source} is missing, but {path.name} lists it; unpack MURA-v1.1.zip again"
            )
        images.append(
            Listed(
                source=source,
                label=labels[study[0]],
                body_part=study["part"].lower(),
                study_id=f"{study['patient']}_XR_{study['part']}_{study['study']}",
                patient=study["patient"],
            )
        )
    return images


def read_labels(root: Path, split: str) -> dict[str, int]:
    """Map the studies of a split, by folder as listed, to their labels.

    Raises:
        DataError: A line is not as the release has it, or its label is not its folder's.
    """
    path = root / f"{split}_labeled_studies.csv"
    labels = {}
    for folder, label in read_rows(path, columns=2):
        study = STUDY.fullmatch(folder)
        if not study or str(LABELS[study["finding"]]) != label:
            raise DataError(
                f"{path} gives the label {label!r} to {folder}, which does not agree; "
                "use the lists as released"
            )
        labels[folder] = int(label)
    return labels


def read_rows(path: Path, columns: int) -> list[list[str]]:
    """Read a list of the release: csv without a header.

    Raises:
        DataError: A line has more or fewer than ``columns``, or it is no text.
    """
    text = io.StringIO(schema.read_text(path), newline="")
    rows = [row for row in csv.reader(text) if row]
    for row in rows:
        if len(row) != columns:
            raise DataError(
                f"{path} has a line of {len(row)} columns, not {columns}: {','.join(row)}; "
                "use the lists as released"
            )
    return rows


def check_patients(root: Path, splits: dict[str, list[Listed]]) -> None:
    """Check that no patient stands in both splits, across body parts.

    Raises:
        DataError: One does.
    """
    train, valid = ({image.patient for image in splits[split]} for split in SPLITS)
    shared = train & valid
    if shared:
        raise DataError(
            f"{min(shared)} stands in both train_image_paths.csv and valid_image_paths.csv of "
            f"{root}, so that valid would not be held out; use the lists as released"
        )

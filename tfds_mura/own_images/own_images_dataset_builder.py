"""A person's own labelled radiographs for TFDS."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fracjax.errors import DataError
from fracjax.image import (
    Header,
    Picture,
    ReadPolicy,
    Reason,
    Rejected,
    looks_like_dicom,
    read_picture,
    read_pictures,
)
from fracjax.image.parse import pydicom_silenced
from fracjax.image.read import WIDE_SNIFF_BYTES, check_kind
from tfds_mura import schema
from tfds_mura.own_images.labels import TABLE, WAY_OUT, Fault, Labelled, read_labels, refuse

POLICY = ReadPolicy(for_processing="score")
"""As for scoring; but raw detector values that somebody has labelled are meant to be learned."""

VIEWS = {
    **dict.fromkeys(("AP", "PA", "DP", "PD", "FRONTAL"), "frontal"),
    **dict.fromkeys(("LL", "RL", "ML", "LM", "LAT", "LATERAL"), "lateral"),
    **dict.fromkeys(("OBL", "OBLIQUE", "RLO", "LLO", "AP_OBL", "PA_OBL"), "oblique"),
}
"""The usual projections by ViewPosition (PS3.3 C.8.1.1, C.8.11.5)."""

Example = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """An image with its DICOM header; ``None`` of a plain file."""

    labelled: Labelled
    header: Header | None


class OwnImages(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """Images of one's own: in the splits that they name, or in five folds by patient."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The folder of your own images is needed: {WAY_OUT}."

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(), supervised_keys=("image", "label")
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Example]]]:
        root = schema.find_archive(dl_manager, "", (), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        labelled, unused = read_labels(root)
        if unused:
            logger.warning("columns of %s that are not used: %s", TABLE, ", ".join(unused))
        images = name_groups(find_facts(root, labelled))
        splits = divide(root, images)
        faults: list[str] = []  # of all splits, to be told when the last is read
        last = list(splits)[-1]
        return {
            split: self._generate_examples(root, members, faults, is_last=split == last)
            for split, members in splits.items()
        }

    def _generate_examples(
        self, root: Path, images: list[Labelled], faults: list[str], *, is_last: bool
    ) -> Iterator[tuple[str, Example]]:
        none_usable = True

        def read(image: Labelled) -> Example | Fault:
            try:
                return read_example(root, image)
            except Fault as fault:
                return fault

        # Silenced from outside too: threads undo each other's silence, and then find this one.
        with pydicom_silenced():
            for example in schema.ahead(read, images):
                if isinstance(example, Fault):
                    faults.append(str(example))
                else:
                    none_usable = False
                    yield example["source"], example
        if is_last or none_usable:  # TFDS cannot write a split of nothing
            refuse(faults)


def find_facts(root: Path, labelled: Sequence[Labelled]) -> list[Found]:
    """Read the header of each DICOM file, and look at the beginning of each other one.

    Of images in folders, what is no image at all is left out, and counted in a warning.

    Raises:
        DataError: Files that are labelled cannot be read.
    """
    found, faults, furniture = [], [], 0
    is_table = (root / TABLE).is_file()
    for image in labelled:
        with (root / image.source).open("rb") as file:
            head = file.read(WIDE_SNIFF_BYTES)
            try:
                check_kind(head)
                header = None
                if looks_like_dicom(head):
                    header = read_pictures(head + file.read(), POLICY).header
            except Rejected as rejected:
                if rejected.reason == Reason.NOT_AN_IMAGE and not is_table:
                    furniture += 1
                else:
                    faults.append(_unreadable(image, rejected))
                continue
        found.append(Found(image, header))
    refuse(faults)
    if furniture:
        logger.warning("files that are no images, and left out: %d", furniture)
    return found


def name_groups(found: Sequence[Found]) -> list[Labelled]:
    """Say of each image which group and study it is of, under numbers instead of identifiers.

    A group is a patient: of the table or folder, else by the PatientID of DICOM, of which only 16
    bits of a digest are known, so that two patients may rarely share a group. Images without a
    patient are grouped by their study, or stand alone; a warning says so.

    Returns:
        The images, with ``patient`` and ``study`` as ``group00001`` and ``study00001``, and with
        what the header knows of body part and view where nothing else is said.
    """
    patients, studies = [], []
    for image in found:
        tag = None if image.header is None else image.header.patient_tag
        patients.append(image.labelled.patient or ("" if tag is None else f"DICOM {tag}"))
        studies.append(image.labelled.study or _study_in(image.header))
    # PatientID is missing on some images of a study.
    known = {study: patient for study, patient in zip(studies, patients, strict=True) if patient}
    alone = 0
    groups = []
    for image, patient, study in zip(found, patients, studies, strict=True):
        patient = patient or (known.get(study, "") if study else "")  # noqa: PLW2901
        alone += not patient
        groups.append(
            ("patient", patient) if patient else ("study", study or image.labelled.source)
        )
    if alone:
        logger.warning(
            "the patient of %d of %d images is not known; images of one patient may stand on both "
            "sides of a split, and figures then be too good. Add a column patient to %s, or a "
            "folder for each patient",
            alone,
            len(found),
            TABLE,
        )
    names = {group: f"group{n:05d}" for n, group in enumerate(dict.fromkeys(groups), 1)}
    keys = [
        (names[group], study or image.labelled.source)
        for image, group, study in zip(found, groups, studies, strict=True)
    ]
    numbers = {key: f"study{n:05d}" for n, key in enumerate(dict.fromkeys(keys), 1)}
    return [
        replace(
            image.labelled,
            patient=key[0],
            study=numbers[key],
            body_part=image.labelled.body_part or (image.header and image.header.body_part) or "",
            view=image.labelled.view
            or VIEWS.get((image.header and image.header.view_position) or "", ""),
        )
        for image, key in zip(found, keys, strict=True)
    ]


def divide(root: Path, images: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """Divide images into the splits that they name, or into ``fold_0`` to ``fold_4``.

    Raises:
        DataError: Some name a split and some do not, a group stands in two, or there are too few
            groups for folds.
    """
    named = [image for image in images if image.split]
    if not named:
        labels, groups = [image.label for image in images], [image.patient for image in images]
        try:
            folds = schema.assign_folds(labels, groups)
        except DataError:
            raise DataError(
                f"{root} holds {len(set(groups))} patients and {min(labels.count(0), sum(labels))} "
                f"images of the rarer class, too few for {schema.FOLDS} folds; say which patient "
                "an image is of, or give a split for each"
            ) from None
        return {f"fold_{n}": [images[index] for index in fold] for n, fold in enumerate(folds)}
    if len(named) < len(images):
        other = next(image for image in images if not image.split)
        raise DataError(f"{other.where} has no split, while others have; give each one, or none")
    first: dict[str, Labelled] = {}
    splits: dict[str, list[Labelled]] = {}
    for image in images:
        splits.setdefault(image.split, []).append(image)
        other = first.setdefault(image.patient, image)
        if other.split != image.split:
            raise DataError(
                f"{other.where} and {image.where} are of one patient, but in the splits "
                f"{other.split} and {image.split}; put all images of a patient into one split"
            )
    return splits


def read_example(root: Path, image: Labelled) -> Example:
    """Read one image as scoring would, but all pixels of JPEG 2000.

    Raises:
        Fault: It yields no picture, or a box lies outside it.
    """
    data = (root / image.source).read_bytes()
    try:
        picture = read_picture(data, POLICY)
    except Rejected as rejected:
        raise Fault(_unreadable(image, rejected)) from None
    encoded, truncated = schema.shown_image(data, picture)
    return {
        "image": encoded,
        "label": image.label,
        "target": image.target,
        "body_part": image.body_part,
        "view": image.view,
        "study_id": image.study,
        "group": image.patient,
        "source": image.source,
        "boxes": _relative(image, picture),
        "hardware": image.hardware,
        "findings": list(image.findings),
        "truncated": truncated,
    }


def _relative(image: Labelled, picture: Picture) -> list[tfds.features.BBox]:
    """Boxes relative to the picture."""
    height, width = picture.display.shape
    whole = "truncated_rows" not in picture.notes
    if whole and any(x + w > width or y + h > height for x, y, w, h in image.boxes):
        raise Fault(
            f"{image.where} has a box that reaches beyond the {width} x {height} pixels of "
            f"{image.source}; write 'left top width height'"
        )
    return [
        schema.box(y / height, x / width, (y + h) / height, (x + w) / width)
        for x, y, w, h in image.boxes
    ]


def _study_in(header: Header | None) -> str:
    """The study of a DICOM file, as it tells studies apart; empty where there is none."""
    if header is None:
        return ""
    tag = "" if header.study_tag is None else f"tag {header.study_tag}"
    return header.study_instance_uid or tag


def _unreadable(image: Labelled, rejected: Rejected) -> str:
    named = "" if image.where == image.source else f", in {image.where}"
    return f"{image.source}{named} is not usable: {rejected}; mend it, or take it out"

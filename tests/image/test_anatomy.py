"""What of a header names a body part."""

import csv
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes

from fracjax.configs import DataSet
from fracjax.image.anatomy import (
    LIMBS,
    SCOPES,
    BodyPart,
    is_term,
    part_in_text,
    part_of_code,
    part_of_tag,
    resolve,
    scope_of,
)
from fracjax.image.header import facts

TERMS = {  # PS3.16 Annex L, and what is seen instead
    "ABDOMEN": "abdomen",
    "ABDOMENPELVIS": "abdomen",
    "ANKLE": "ankle",
    "ARM": "humerus",
    "BREAST": "breast",
    "CALCANEUS": "foot",
    "CHEST": "chest",
    "CHESTABDPELVIS": "chest",
    "CLAVICLE": "clavicle",
    "COCCYX": "spine",
    "CSPINE": "spine",
    "C SPINE": "spine",
    "L-SPINE": "spine",
    "ELBOW": "elbow",
    "EXTREMITY": "extremity",
    "FEMUR": "femur",
    "FINGER": "finger",
    "FOOT": "foot",
    "HAND": "hand",
    "LEFT HAND": "hand",
    "HEAD": "skull",
    "HIP": "hip",
    "HUMERUS": "humerus",
    "JAW": "jaw",
    "KNEE": "knee",
    "LEG": "leg",
    "LOW_EXM": "lower_limb",
    "LSSPINE": "spine",
    "MAXILLA": "jaw",
    "NECK": "neck",
    "PATELLA": "knee",
    "PATTERN": "phantom",
    "PANO": "teeth",
    "DENT": "teeth",
    "PELVIS": "pelvis",
    "RIB": "ribs",
    "SCAPULA": "shoulder",
    "SHOULDER": "shoulder",
    "SKULL": "skull",
    "SSPINE": "spine",
    "STERNUM": "chest",
    "THIGH": "femur",
    "THORAX": "chest",
    "THUMB": "finger",
    "TIB/FIB": "leg",
    "TMJ": "jaw",
    "TOE": "toe",
    "UP_EXM": "upper_limb",
    "WHOLEBODY": "whole_body",
    "WRIST": "wrist",
    "ZYGOMA": "face",
    "Hüftgelenk": "hip",
    "HUEFTE": "hip",
    "FUSS": "foot",
    "MAIN": "hand",
    "MUÑECA": "wrist",
    "КИСТЬ": "hand",
    "EL BİLEĞİ": "wrist",
    "腰椎": "spine",
}

TEXTS = {
    "XRAY RIGHT HAND": "hand",
    "XR C Spine Comp Min 4 Views": "spine",
    "Non-ossifying fibroma of distal tibia": "leg",
    "ECOTOMOGRAFIA CODO IZQUIERDO": "elbow",
    "Rö. Sprunggelenk re. 2 Eb.": "ankle",
    "Radiographie de l'épaule droite": "shoulder",
    "Rx avant-bras gauche": "forearm",
    "Rx col du fémur": "hip",
    "Radiografia dedo del pie": "toe",
    "RX ginocchio dx": "knee",
    "Рентгенография органов грудной клетки": "chest",
    "Рентгенография голеностопного сустава": "ankle",
    "RTG nadgarstka prawego": "wrist",
    "Fracture of the radial head": "elbow",
    "Hand + wrist": "upper_limb",
    "Hand and knee": "extremity",
    "Lower extremity, ankle": "ankle",
    "Chest and hand": None,
    "Trauma main series": None,
    "CT scout, head first supine": None,
    "FRACTURE CONTROL C-ARM": None,
    "Handled with care": None,
    "": None,
}


@pytest.mark.parametrize(("tagged", "part"), TERMS.items())
def test_tagged_terms(tagged, part):
    assert part_of_tag(tagged) == part
    assert part_of_tag(f" {tagged.lower()}_") == part
    assert is_term(tagged)


@pytest.mark.parametrize(("text", "part"), TEXTS.items())
def test_texts(text, part):
    assert part_in_text(text) == part


@pytest.mark.parametrize(
    "tagged", ["", None, "SMITHERS", "HAND SMITHERS", "HAND^WAYLON", "=HAND", "HAND\n", "LEFT", "7"]
)
def test_what_may_hold_a_name_is_no_term(tagged):
    assert not is_term(tagged)


@given(st.sampled_from(sorted(TERMS)), st.text("SMITHER", min_size=5))
def test_a_name_beside_a_term_makes_it_none(term, name):
    assert not is_term(f"{term} {name}")


@given(st.text())
def test_any_text_can_be_searched(text):
    assert part_in_text(text) in {None, *BodyPart}
    assert part_of_tag(text) in {None, *BodyPart}
    assert not is_term(text) or len(text) <= 64


def test_codes_mean_what_the_standard_says():
    """The dictionaries of pydicom are made from PS3.16."""
    checked = 0
    for group in (codes.cid4009, codes.cid4031, codes.cid7304):
        for name in group.dir():
            code = getattr(group, name)
            part = part_of_code(code.value, code.scheme_designator)
            # What the code means in words is an independent account of the same part.
            named = part_in_text(code.meaning)
            assert named in (None, part) or part is None, code.meaning
            assert part is not None or named not in LIMBS, code.meaning
            checked += named is not None
    assert checked > 150


def test_old_codes_mean_what_the_new_ones_do():
    both = 0
    for old, new in mapping["SRT"].items():
        part = part_of_code(old, "SRT")
        assert part == part_of_code(new, "SCT"), (old, new)
        both += part is not None
    assert both > 80
    assert part_of_code("T-D8300", "SNM3") == BodyPart.ELBOW
    assert part_of_code("85562004", "LN") is None
    assert part_of_code(None, "SCT") is None


def test_evidence_is_ranked():
    hand, chest = ("85562004", "SCT"), ("816094009", "SCT")
    described = {"SeriesDescription": "wrist", "StudyDescription": "elbow"}
    assert resolve([hand], "KNEE", described) == ("hand", "AnatomicRegionSequence")
    assert resolve([("1", "99X"), hand], None, {}) == ("hand", "AnatomicRegionSequence")
    assert resolve([("1", "99X")], "KNEE", described) == ("knee", "BodyPartExamined")
    assert resolve([], None, described) == ("wrist", "SeriesDescription")
    assert resolve([], "UNKNOWN", {"SeriesDescription": "2 views"}) == (None, None)
    assert resolve([chest], "CHEST", {"StudyDescription": "Thorax"})[0] == "chest"


def test_a_generic_term_yields_to_what_it_stands_for():
    assert resolve([], "EXTREMITY", {"StudyDescription": "distal tibia"}) == (
        "leg",
        "StudyDescription",
    )
    texts = {"SeriesDescription": "knee", "StudyDescription": "wrist"}
    assert resolve([], "UPPER LIMB", texts) == ("wrist", "StudyDescription")
    assert resolve([], "EXTREMITY", {"SeriesDescription": "arm", "StudyDescription": "elbow"}) == (
        "elbow",
        "StudyDescription",
    )
    assert resolve([], "HAND", {"StudyDescription": "upper extremity"})[0] == "hand"


def test_a_tag_cannot_hide_a_limb_that_is_described():
    assert resolve([], "CHEST", {"StudyDescription": "XR right hand"}) == (None, None)
    assert resolve([], "HAND", {"StudyDescription": "XR chest"}) == ("hand", "BodyPartExamined")


def test_scopes():
    assert set(SCOPES) == set(get_args(DataSet))
    for name in ("frac_atlas", "mura", "grazpedwri_dx"):
        assert SCOPES[name] <= LIMBS
        assert BodyPart.EXTREMITY in SCOPES[name]
    assert not SCOPES["rsna_cervical_spine"] & LIMBS
    mura = {"elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist"}
    assert SCOPES["mura"] == mura | {"upper_limb", "extremity"}
    assert not LIMBS & {"chest", "skull", "spine", "teeth", "phantom", "whole_body"}


def test_the_scope_of_own_images_is_what_they_show():
    shown = scope_of("own_images", ["hand", "wrist+hand", "hand"])
    assert {BodyPart.HAND, BodyPart.WRIST, BodyPart.EXTREMITY, BodyPart.UPPER_LIMB} == shown
    # An image of an unknown part lifts the limit.
    assert scope_of("own_images", ["hand", ""]) == frozenset()
    assert scope_of("mura", ["hand", ""]) == SCOPES["mura"]


def test_real_headers(shared):
    """Every tag of the collection is a known term, and the tibia is found behind EXTREMITY."""
    folder = shared / "dicom"
    with (folder / "manifest.csv").open(newline="") as manifest:
        tagged = {row["file"]: row["BodyPartExamined"] for row in csv.DictReader(manifest)}
    named = {term for term in tagged.values() if term}
    assert {term: part_of_tag(term) for term in named} == {
        "HIP": "hip",
        "EXTREMITY": "extremity",
        "CHEST": "chest",
        "HEAD": "skull",
        "HAND": "hand",
        "CSPINE": "spine",
        "WHOLE BODY": "whole_body",
    }
    found = {
        name: facts(dcmread(folder / name, stop_before_pixels=True, force=True), "1.2.3")
        for name in ("ts/RG2_UNC", "ts/RG3_UNC", "radiograph/hand_KODAK_J2KR.dcm")
    }
    assert [(header.body_part_tagged, header.body_part) for header in found.values()] == [
        ("HIP", "hip"),
        ("EXTREMITY", "leg"),
        ("HAND", "hand"),
    ]
    source = found["ts/RG3_UNC"].body_part_source
    assert source == "AcquisitionDeviceProcessingDescription"  # [LOWER LEG], in brackets

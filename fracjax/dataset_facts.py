"""What a data set's own authors tell of it, for model cards and reporting checklists.

What is of a study, such as its protocol and funding, nobody but its authors can tell.
Only what was read in a release, its paper or ``tfds_mura/NAME/README.md`` stands here. Where a
source says nothing, that is what stands here, with where to look. An empty field is one that only
whoever holds the images can fill.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fracjax.configs import DataSet
from fracjax.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known of a data set, each field a sentence or more; empty where nobody has told it.

    Attributes:
        licence: What a holder of a model that was trained on it must carry along.
        source: Where its images come from: hospitals, country, kind of care.
        dates: When they were taken.
        eligibility: Which images were taken in, and which left out.
        deidentification: How identifiers were removed.
        acquisition: How the pictures were made and stored.
        reference_standard: What makes a case positive, and who or what said so.
        rationale: Why that is the reference, and not another.
        annotators: Who labelled, by what tool, and what they could see.
        variability: How far labels of two readers, or of one on two days, agree.
        missing: What becomes of cases of which something is not known.
        partitions: How cases come into splits, and what splits never share.
        demographics: Age, sex and the like.
        treatments: Metal, casts and other traces of treatment.
        hypotheses: Which hypotheses were tested, or that none was.
        sample_size: How the number of cases came about.
        protocol: Where protocol and registration are, or that there are none.
        involvement: How patients and the public took part, or that they did not.
        ethics: Who approved of the collection, and what became of consent.
        funding: Who paid for images and model, and what for.
        limits: What is known to be wrong or narrow about it.
    """

    licence: str = ""
    source: str = ""
    dates: str = ""
    eligibility: str = ""
    deidentification: str = ""
    acquisition: str = ""
    reference_standard: str = ""
    rationale: str = ""
    annotators: str = ""
    variability: str = ""
    missing: str = ""
    partitions: str = ""
    demographics: str = ""
    treatments: str = ""
    hypotheses: str = ""
    sample_size: str = ""
    protocol: str = ""
    involvement: str = ""
    ethics: str = ""
    funding: str = ""
    limits: tuple[str, ...] = ()

    def with_told(self, told: Mapping[str, str | list[str]]) -> "DatasetFacts":
        """Give the facts with some told by a user instead; limits are added to those known.

        Raises:
            UsageError: One of them is no fact that is asked for, no text, or an empty one; limits
                are texts.
        """
        names = {field.name for field in dataclasses.fields(self)} - {"licence"}
        for name in told:
            if name not in names:
                raise UsageError(
                    f"{name} is no fact of a data set; give {', '.join(sorted(names))}"
                )
            if isinstance(told[name], list) != (name == "limits"):
                raise UsageError(f"{name} is told by {'texts' if name == 'limits' else 'a text'}")
            texts = told[name]
            if not all(text.strip() for text in ([texts] if isinstance(texts, str) else texts)):
                raise UsageError(f"{name} is told by an empty text; fill it in, or leave it out")
        added = {"limits": (*self.limits, *told.get("limits", ()))}
        return dataclasses.replace(self, **(dict(told) | added))  # type: ignore[arg-type]


def read(path: Path) -> dict[str, str | list[str]]:
    """Read facts that a user tells: a JSON object of texts by name, and of ``limits`` a list.

    Raises:
        DataError: The file cannot be read, or is nothing of the kind.
    """
    try:
        return TypeAdapter(dict[str, str | list[str]]).validate_python(json.loads(path.read_text()))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another --facts") from None
    except (ValueError, ValidationError):
        raise DataError(
            f'{path} holds no facts; give a JSON object of texts, like {{"dates": "2024 to 2025."}}'
        ) from None


def _in_the_paper(paper: str) -> str:
    return f"Not told by the release; see {paper}."


_ABEDEEN = "Abedeen et al., Scientific Data 10:521, 2023"
_RAJPURKAR = "Rajpurkar et al., arXiv:1712.06957"
_NAGY = "Nagy et al., Scientific Data 9:222, 2022"
_LIN = "Lin et al., Radiology: Artificial Intelligence 5:5, 2023"

_FIVE_FOLDS = "Five folds of like rate of positives, the same for the same archive."

FACTS: Mapping[DataSet, DatasetFacts] = {
    "frac_atlas": DatasetFacts(
        licence=(
            "FracAtlas, Abedeen et al. 2023, CC BY 4.0, "
            "https://doi.org/10.6084/m9.figshare.22363012"
        ),
        source=(
            "FracAtlas: radiographs from three hospitals in Bangladesh, of which nothing more is "
            f"told here ({_ABEDEEN})."
        ),
        dates=_in_the_paper(_ABEDEEN),
        eligibility=(
            "Hand, leg, hip and shoulder. Left out here: nine near-identical pictures that carry "
            "opposite labels; copies of pictures of another fold; and any image whose table row, "
            "fracture count and folder disagree."
        ),
        deidentification="The release holds JPEG pictures, named by a number.",
        acquisition=(
            "JPEG pictures of conventional radiographs, 8 bit. Some are truncated: their intact "
            "rows are used. Scanners are not named by the release."
        ),
        reference_standard=(
            "Fracture or none, of each image, as labelled for the data set; fractures are framed "
            "and outlined (922 in 717 images)."
        ),
        rationale="The labels of the release; there is no CT or follow-up to compare with.",
        annotators=(
            "Two radiologists and an orthopaedist, with the open tool makesense.ai "
            f"({_ABEDEEN}). Nothing is told of what they knew of the patient."
        ),
        variability=(
            "Not told by the release. Nine near-identical pictures with opposite labels show that "
            "it is not nil."
        ),
        missing="Images of which the label cannot be known are in no split.",
        partitions=(
            f"{_FIVE_FOLDS} Folds share no leakage group: blocks of consecutive images, joined "
            "with near-duplicates. That stands for the patient, whom the release does not name, "
            "and is no proof."
        ),
        demographics="The release names no patients, and gives neither age nor sex.",
        treatments=(
            "99 of the 4,083 images show metal, and 97 of these are fractured, so figures are "
            "also given of images without it. Nothing else is told of treatment."
        ),
        ethics=_in_the_paper(_ABEDEEN),
        limits=(
            "FracAtlas names no studies: each image is its own, so how well the mean over a "
            "study's images ranks was not measured.",
            "Groups are blocks of consecutive images joined with near-duplicates: FracAtlas names "
            "no patients, so a patient may stand on both sides.",
            "Size and order predict the label in FracAtlas (16 % of its small and 29 % of its "
            "large pictures are fractured; ids 2400 to 2599 all are), and so does metal (97 of 99 "
            "pictures). The model may have learned them.",
            "Three hospitals of one country; hand, leg, hip and shoulder only; no ages are given.",
        ),
    ),
    "mura": DatasetFacts(
        licence="MURA, Stanford University School of Medicine, research use agreement",
        source=f"MURA v1.1: studies of the upper extremity, Stanford Hospital ({_RAJPURKAR}).",
        dates="2001 to 2012.",
        eligibility="Elbow, finger, forearm, hand, humerus, shoulder and wrist.",
        deidentification="The release holds PNG pictures, named by numbers.",
        acquisition="PNG, 8 bit, longer side 512 pixels or less. Scanners are not named.",
        reference_standard=(
            "Normal or abnormal, of each study. Abnormal is not fractured: hardware, degenerative "
            "disease, lesions and subluxations count too."
        ),
        rationale="The reading of routine care, which the release took over.",
        annotators="A radiologist, at the time of reading; nothing is told of what was known.",
        variability=f"Of the public splits not told; of the hidden test set see {_RAJPURKAR}.",
        missing="None is: each study has a label.",
        partitions="Those of the release. They share no patient, which is checked.",
        demographics="The release gives neither age nor sex.",
        treatments="Hardware counts as abnormal, and is not told apart.",
        ethics=_in_the_paper(_RAJPURKAR),
        limits=(
            "MURA's labels are of abnormality, not of fracture.",
            "One hospital; upper limb only.",
        ),
    ),
    "grazpedwri_dx": DatasetFacts(
        licence=(
            "GRAZPEDWRI-DX, Nagy et al. 2022, CC BY 4.0, "
            "https://doi.org/10.6084/m9.figshare.14825193"
        ),
        source=(
            "GRAZPEDWRI-DX: wrists of children and adolescents after trauma, University Hospital "
            f"Graz ({_NAGY})."
        ),
        dates="2008 to 2018.",
        eligibility="Images that the release marks as of uncertain diagnosis are left out.",
        deidentification="The release holds PNG pictures, named by numbers.",
        acquisition="16-bit PNG without a window; shown by percentiles of the exposed region.",
        reference_standard="Whether a fracture is visible on the image, as marked for the release.",
        rationale="The marks of the release; follow-up is not taken over.",
        annotators=f"Paediatric radiologists ({_NAGY}).",
        variability=_in_the_paper(_NAGY),
        missing="Images of uncertain diagnosis are in no split.",
        partitions=f"{_FIVE_FOLDS} They share no patient.",
        demographics="6,091 children and adolescents; age and sex are not taken over.",
        treatments="Casts and metal are marked, and figures are told apart by them.",
        ethics=_in_the_paper(_NAGY),
        limits=(
            "Wrists of children and adolescents, of one hospital.",
            "Images whose diagnosis was uncertain are left out, so they are easier than what "
            "comes.",
        ),
    ),
    "rsna_cervical_spine": DatasetFacts(
        licence=(
            "Cervical Spine Fracture Detection Dataset, Copyright RSNA, 2023, non-commercial use "
            "only, https://doi.org/10.1148/ryai.230034"
        ),
        source=f"RSNA 2022 Cervical Spine Fracture Detection: CT from twelve sites ({_LIN}).",
        dates=_in_the_paper(_LIN),
        eligibility="Slices with a box, and twenty slices of each study without fracture.",
        deidentification=_in_the_paper(_LIN),
        acquisition="Slices of CT in one window for bone (centre 500, width 2000).",
        reference_standard="Whether a slice has a box that frames a fracture.",
        rationale="The marks of the release.",
        annotators=f"Spine radiologists ({_LIN}).",
        variability=_in_the_paper(_LIN),
        missing="Slices of studies with a fracture that have no box are unknown, and left out.",
        partitions=f"{_FIVE_FOLDS} They share no study; the release has one for each patient.",
        demographics=_in_the_paper(_LIN),
        treatments=_in_the_paper(_LIN),
        ethics=_in_the_paper(_LIN),
        limits=(
            "Slices of CT, not radiographs.",
            "Positive are slices with a box; of positive studies no other slice is known.",
        ),
    ),
    "own_images": DatasetFacts(
        licence="images of whoever trained the model, under terms that only they can tell",
        missing="An image without a label stops the reading of the folder.",
        partitions=(
            "Those of the table or the folders, else five folds of like rate. They share no "
            "patient, as far as patients are known."
        ),
        limits=("Labels and groups are those of whoever trained the model.",),
    ),
}
"""Of each builder in ``tfds_mura``."""

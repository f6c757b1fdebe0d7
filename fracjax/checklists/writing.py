"""The card as a page of Markdown, with a crosswalk of each guideline's items to its headings."""

import json
from collections.abc import Callable, Mapping, Sequence

from fracjax.checklists.items import CLAIM, TRIPOD_AI
from fracjax.checklists.sections import SECTIONS, Section, Subject
from fracjax.errors import UsageError
from fracjax.evaluate.evaluation import OF_A_WORKLIST
from fracjax.notice import NOTICE


def render(subject: Subject) -> str:
    """Write the card of a model.

    Raises:
        UsageError: The evaluation is of another model, data set or aggregation, or of a worklist;
            or an item has nothing to say, with which.
    """
    manifest, evaluation = subject.manifest, subject.evaluation
    wanted = manifest.model_id, manifest.weights_sha256
    if (evaluation.model_id, evaluation.weights_sha256) != wanted:
        raise UsageError(
            f"the evaluation is of {evaluation.model_id}, the bundle is {manifest.model_id}; "
            "evaluate this bundle"
        )
    name = manifest.training.data.name
    if evaluation.data != OF_A_WORKLIST and evaluation.data.split("/")[0] != name:
        raise UsageError(
            f"the evaluation is of {evaluation.data}, and what a card says of the images is of "
            f"{name}; give one of other splits of {name}"
        )
    if evaluation.data == OF_A_WORKLIST:
        raise UsageError(
            "the evaluation is of a worklist, which tells too little of the images; give one of a "
            "data set: evaluate with --dataset, --split and --stress"
        )
    if evaluation.aggregation != "mean":
        raise UsageError(
            f"the evaluation has studies by the {evaluation.aggregation} of their images, and the "
            "model's operating points are of the mean; evaluate without --aggregate"
        )
    said = {section.title: section.said_of(subject).strip() for section in SECTIONS}
    empty = [section for section in SECTIONS if not said[section.title]]
    if empty:
        lacks = "; ".join(_lack(section, section.lacking(subject)) for section in empty)
        raise UsageError(f"nothing is said of {lacks}")
    headings = "\n\n".join(f"## {title}\n\n{text}" for title, text in said.items())
    return f"""# {manifest.model_id}: model card

**{NOTICE}**

Made {evaluation.created[:10]} by `fracjax card` from the bundle and its evaluation. Each item of
CLAIM 2024 and TRIPOD+AI is answered under a heading; the tables at the end say which.

{headings}

## CLAIM 2024

Tejani et al., Radiology: Artificial Intelligence 6(4):e240300, 2024.

{_crosswalk(CLAIM, lambda section: section.claim)}

## TRIPOD+AI

Collins et al., BMJ 385:e078378, 2024.

{_crosswalk(TRIPOD_AI, lambda section: section.tripod)}
"""


def _lack(section: Section, facts: Sequence[str]) -> str:
    items = [
        f"{name} {', '.join(numbers)}"
        for name, numbers in (("CLAIM", section.claim), ("TRIPOD+AI", section.tripod))
        if numbers
    ]
    named = " and ".join(map(json.dumps, facts))
    way_out = f"give {named} in a file for --facts" if facts else "evaluate with --stress"
    return f"{section.title.lower()} ({'; '.join(items)}): {way_out}"


def _crosswalk(items: Mapping[str, str], numbers: Callable[[Section], tuple[str, ...]]) -> str:
    rows = []
    for number, topic in items.items():
        headings = [section.title for section in SECTIONS if number in numbers(section)]
        links = ", ".join(f"[{title}](#{_anchor(title)})" for title in headings)
        rows.append(f"| {number} | {topic} | {links} |")
    return "\n".join(["| item | topic | where |", "|---|---|---|", *rows])


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")

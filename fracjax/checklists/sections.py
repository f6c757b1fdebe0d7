"""What is said of a model under each heading, and which items of the guidelines that answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fracjax.bundle import Manifest
from fracjax.calibration import in_words as calibration_in_words
from fracjax.card import (
    MEANING,
    averaged_in_words,
    choice_in_words,
    not_for,
    numbers_in_words,
    scope_in_words,
)
from fracjax.configs import changes
from fracjax.dataset_facts import DatasetFacts
from fracjax.evaluate.evaluation import Evaluation
from fracjax.evaluate.locating import lines as located_lines
from fracjax.evaluate.measuring import ALL, HALF, Measured
from fracjax.evaluate.measuring import in_words as name_in_words
from fracjax.evaluate.stress import lines as stress_lines
from fracjax.figure import Figure


@dataclass(frozen=True, slots=True)
class Subject:
    """What a card is of: a model, its evaluation, and the facts of the images."""

    manifest: Manifest
    evaluation: Evaluation
    facts: DatasetFacts


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of the card.

    Attributes:
        title: The heading.
        text: What is said, Markdown; empty if nobody has told it.
        claim: Items of CLAIM 2024 that it answers.
        tripod: Items of TRIPOD+AI that it answers.
        facts: Those without which it says nothing.
    """

    title: str
    text: Callable[[Subject], str]
    claim: tuple[str, ...]
    tripod: tuple[str, ...]
    facts: tuple[str, ...] = ()

    def lacking(self, subject: Subject) -> list[str]:
        """Give the facts that nobody has told."""
        return [name for name in self.facts if not getattr(subject.facts, name)]

    def said_of(self, subject: Subject) -> str:
        """Give the text; empty if it, or a fact that it rests on, was told by nobody."""
        return "" if self.lacking(subject) else self.text(subject)


def _fact(name: str) -> Callable[[Subject], str]:
    def text(subject: Subject) -> str:
        told: str = getattr(subject.facts, name)
        return told

    return text


def _summary(subject: Subject) -> str:
    manifest, evaluation = subject.manifest, subject.evaluation
    return (
        f"A deep neural network ({manifest.model.name}) gives each picture, and by the "
        f"{evaluation.aggregation} of its images each study, the likelihood that "
        f"{MEANING[manifest.target]}. It was developed on {_learned(manifest)} and evaluated, as "
        f"stored, on {evaluation.data}: study AUROC {evaluation.find('auroc').figure}. What that "
        "is worth elsewhere is not known."
    )


def _purpose(subject: Subject) -> str:
    return f"""Radiographs wait unread, and fractures are among what is missed on them. The model is
made for research on ordering a reading list, and on what such an order is worth: its users are
researchers and imaging engineers, and radiologists who take part in such a study. It is diagnostic,
not prognostic; it stands before reading, and replaces none.

It must not be used for:

{not_for(subject.manifest)}

Of commercial models, one independent comparison found AUROC of 0.77, 0.84 and 0.85 for fractures of
22 body regions in 1,037 adults (Luiken et al., Radiography, October 2025)."""


def _aims(subject: Subject) -> str:
    return (
        "Retrospective. Development of a model and its evaluation on cases that were kept apart. "
        f"{subject.facts.hypotheses}"
    )


def _preprocessing(subject: Subject) -> str:
    done = asdict(subject.manifest.preprocess)
    settings = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in done.items())
    return (
        "A picture as displayed (modality LUT, VOI LUT, polarity) becomes a square of 8-bit grey "
        f"levels, and these the input: {settings}. The same code does it in training and scoring. "
        "Truncated files are told apart, and figures given with and without them. "
        "Nothing depends on who the patient is."
    )


def _subsets(subject: Subject) -> str:
    return (
        "Whole pictures; no regions were chosen in them. The model is meant for "
        f"{scope_in_words(subject.manifest)}."
    )


def _predictors(subject: Subject) -> str:
    return (
        "The pixels of the picture, and nothing else: no header value, no age or sex. Nobody "
        "assesses them."
    )


def _sample_size(subject: Subject) -> str:
    auroc = subject.evaluation.find("auroc").figure
    return (
        f"{subject.facts.sample_size} What the size of the "
        f"evaluation leaves open is the width of its intervals: AUROC {auroc}."
    )


def _model(subject: Subject) -> str:
    manifest = subject.manifest
    model = ", ".join(
        f"{name.replace('_', ' ')}: {value}" for name, value in asdict(manifest.model).items()
    )
    weights = manifest.provenance.initial_weights
    initial = f"weights of sha256 {weights}" if weights else "random values"
    but_weights = "" if manifest.integers is None else "but the weights, which lie one folder up, "
    return (
        f"{model}. Input: {manifest.preprocess.image_size} x {manifest.preprocess.image_size} "
        "pixels, three equal channels. Output: one logit, of which the sigmoid is the raw "
        f"likelihood.{numbers_in_words(manifest)} It began with {initial} and a random head. "
        "Weights as stored: sha256 "
        f"`{manifest.weights_sha256}`; the bundle holds all {but_weights}that a prediction needs "
        "(docs/bundle.md)."
    )


def _versions(software: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in software.items())


def _software(subject: Subject) -> str:
    trained, evaluated = (
        _versions(each) for each in (subject.manifest.software, subject.evaluation.software)
    )
    integers = subject.manifest.integers
    quantised = "" if integers is None else f" Integers: {_versions(integers.software)}."
    return f"Training: {trained}.{quantised} Evaluation: {evaluated}. The code is open."


def _training(subject: Subject) -> str:
    training = subject.manifest.training
    averaged = subject.manifest.provenance.averaged
    differing = {
        change.partition("=")[0]
        for ingredient in averaged
        for change in changes(training, ingredient.training)
    }
    parts = {"optimisation": "optimizer", "loss": "loss", "augmentation": "augment"}
    said = "\n".join(
        f"- {name}: "
        + ", ".join(
            f"{key.replace('_', ' ')} {value}"
            for key, value in asdict(getattr(training, section)).items()
            if f"{section}.{key}" not in differing
        )
        for name, section in parts.items()
    )
    members = "One model; no ensemble."
    if averaged:
        members = f"One network, {averaged_in_words(subject.manifest)}. What holds for all of them:"
    return f"""Recipe `{training.name}`, seed {training.seed}. {choice_in_words(subject.manifest)}
{members}

{said}"""


def _imbalance(subject: Subject) -> str:
    weights = subject.manifest.training.loss.weights
    weighed = (
        "Classes were not weighed against each other."
        if weights == "none"
        else f"Training weighed classes against each other (`{weights}`), so raw likelihoods are "
        "not frequencies."
    )
    return (
        f"{weighed} The likelihood is {calibration_in_words(subject.manifest.calibration, None)}."
    )


def _measures(subject: Subject) -> str:
    stated = [row.prevalence for row in subject.evaluation.rows if row.prevalence is not None]
    of = f"where {100 * stated[0]:.3g} % are positive" if stated else "of the cases"
    return (
        "AUROC and AUPRC; sensitivity at fixed specificity and the reverse; accuracy beside that "
        "of the commoner class, balanced accuracy, precision, recall, F1, specificity, MCC and "
        "Cohen's kappa at operating points; PPV, NPV and false alarms for each true one "
        f"{of}; Brier score with its parts, ECE, slope and intercept. The study is the "
        f"unit ({subject.evaluation.aggregation} of its images). Intervals are 95 %, a bootstrap "
        "over groups with Student's t on the logit scale; DeLong's beside the AUROC "
        f"(docs/evaluate.md). Command: `fracjax {subject.evaluation.command}`."
    )


def _robustness(subject: Subject) -> str:
    evaluation = subject.evaluation
    if not evaluation.stresses:
        return ""
    shortcuts = evaluation.shortcut_lines() if evaluation.shortcuts else []
    return _listed([*stress_lines(evaluation.stresses), *shortcuts])


def _explanation(subject: Subject) -> str:
    located = subject.evaluation.located
    methods = "Grad-CAM and integrated gradients."
    if subject.manifest.integers is not None:
        methods = "Grad-CAM and integrated gradients, of the same weights in float32."
    if located is None:
        return f"{methods} These cases mark no findings, so the maps were not scored."
    return f"{methods}\n\n{_listed(located_lines(located))}"


def _evaluation_data(subject: Subject) -> str:
    manifest, evaluation = subject.manifest, subject.evaluation
    kind = (
        "Images of one's own, as those that it learned from: whether they are of the same hospital "
        "only their holder can tell."
        if manifest.training.data.name == "own_images"
        else "Internal: groups that were not learned from, of the data set that it learned from, "
        "by the same reference standard. Nothing external was tested here: expect less elsewhere."
    )
    return f"{kind} Cases: {evaluation.data}, images and labels sha256 `{evaluation.data_sha256}`."


def _registration(subject: Subject) -> str:
    return (
        f"{subject.facts.protocol} {subject.facts.involvement} Of the images: "
        f"{subject.facts.ethics}"
    )


def _flow(subject: Subject) -> str:
    manifest = subject.manifest
    figure = subject.evaluation.find("auroc").figure
    remarks = "\n".join(f"- {remark}" for remark in subject.evaluation.remarks)
    tuned = manifest.calibration
    if tuned is not None:
        tuning = f"{tuned.studies} studies, {tuned.positives} positive, {tuned.groups} groups"
    elif manifest.training.data.select > 0:
        tuning = "the groups that chose the epoch are too few for it"
    else:
        tuning = "none"
    return f"""| | cases |
|---|---|
| development, learned from | {_learned(manifest)} |
| development, set apart for calibration and operating points | {tuning} |
| evaluation | {figure.n} studies, {figure.positives} positive, {figure.groups} groups |

{remarks}"""


def _characteristics(subject: Subject) -> str:
    rows = "\n".join(
        f"| {row.subset} | {row.figure.n} | {row.figure.positives} |"
        for row in _subsets_of(subject.evaluation, "auroc")
    )
    return f"""{subject.facts.demographics} {subject.facts.treatments} Of the evaluation:

| studies | n | positive |
|---|---|---|
{rows}"""


def _output(subject: Subject) -> str:
    points = "\n".join(
        f"- `{name}`, raw likelihood {point.threshold:.4f} or more: {point.rule}"
        for name, point in subject.evaluation.thresholds.items()
    )
    return f"""A likelihood, 0 to 1, of each study and image. Classification at:

{points}"""


def _performance(subject: Subject) -> str:
    rows = "\n".join(
        f"| {_row_in_words(row)} | {row.at or 'none'} | {row.figure} |"
        for row in subject.evaluation.rows
        if (row.level, row.subset) == ("study", ALL)
    )
    return f"""Level: study. Data: sha256 `{subject.evaluation.data_sha256}`.

| figure | operating point | value |
|---|---|---|
{rows}"""


def _subgroups(subject: Subject) -> str:
    rows = "\n".join(
        f"| {row.subset} | {row.figure} |" for row in _subsets_of(subject.evaluation, "auroc")
    )
    worst = subject.evaluation.worst
    said = "No subset has a figure." if worst is None else f"Worst: {worst.subset}, {worst.figure}."
    return f"""Level: study. Data: sha256 `{subject.evaluation.data_sha256}`. {said} Whether it does
as well for women and men, young and old, and for all origins is not known wherever the data set
does not tell them; known inequalities of access to imaging are not made up for. Hospitals are told
apart only where the data set does.

| AUROC of | value |
|---|---|
{rows}"""


def _failures(subject: Subject) -> str:
    evaluation = subject.evaluation
    at = "youden" if "youden" in evaluation.thresholds else next(iter(evaluation.thresholds), HALF)
    sensitivity = evaluation.find("sensitivity", at).figure
    rate = evaluation.find("false_positive_rate", at).figure
    misses = (
        f"At `{at}` it misses {_share(1 - sensitivity.value)} of positive studies and calls "
        f"{_share(rate.value)} of negative ones (sensitivity {sensitivity}; false-positive rate "
        f"{rate})."
        if isinstance(sensitivity, Figure) and isinstance(rate, Figure)
        else f"At `{at}`: sensitivity {sensitivity}; false-positive rate {rate}."
    )
    return f"{misses} `report.html` of the same evaluation shows the surest errors with heat maps."


def _limitations(subject: Subject) -> str:
    return "\n".join(f"- {limit}" for limit in subject.facts.limits)


def _use(subject: Subject) -> str:
    return (
        "Whoever uses it needs no skill in machine learning, and has to know what a likelihood is "
        "not. A study none of whose images can be read and is like what the model learned from "
        "gets no likelihood, but a reason, and stands before all others; what is no radiograph is "
        "set aside, with a reason. Nobody has to prepare inputs."
    )


def _updating(subject: Subject) -> str:
    moves = (
        "`--prevalence` moves likelihoods to a site's frequency of positives; "
        if subject.manifest.calibration is not None
        else "It is not calibrated, so that likelihoods cannot be moved to a site's prevalence; "
    )
    return (
        f"The evaluation changed nothing. {moves}`fracjax calibrate-site` sets bands by its labels."
    )


def _next_steps(subject: Subject) -> str:
    return (
        "Evaluation on another site's studies of several images, with ages and sexes "
        "(`fracjax evaluate --labels`), and of what the order does to waiting "
        "(`fracjax simulate-queue`)."
    )


def _availability(subject: Subject) -> str:
    licences = "\n".join(f"- {licence}" for licence in subject.manifest.provenance.licences)
    return f"""Code and documentation are in fracjax's repository, under its licence: see
docs/architecture.md, docs/bundle.md and docs/training.md. The model is with whoever made it, as a
bundle. To be carried along with it, terms of the data included:

{licences}"""


def _learned(manifest: Manifest) -> str:
    made = manifest.provenance
    return (
        f"{made.train_images} images, {made.train_positives} positive, {made.train_groups} groups "
        f"of {made.dataset} ({', '.join(manifest.training.data.train)})"
    )


def _subsets_of(evaluation: Evaluation, name: str) -> list[Measured]:
    return [
        row
        for row in evaluation.rows
        if (row.name, row.level) == (name, "study") and row.subset != ALL
    ]


def _row_in_words(row: Measured) -> str:
    named = name_in_words(row.name)
    return named if row.prevalence is None else f"{named} at {100 * row.prevalence:.3g} % positive"


def _share(part: float) -> str:
    return f"{100 * part:.1f} %"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])


SECTIONS = (
    Section("Summary", _summary, ("1", "2"), ("1", "2", "25")),
    Section("Purpose", _purpose, ("3", "41"), ("3a", "3b")),
    Section("Aims and design", _aims, ("4", "5", "6"), ("4",), ("hypotheses",)),
    Section("Source of the images", _fact("source"), ("7",), ("5a", "6a"), ("source",)),
    Section("Dates", _fact("dates"), (), ("5b",), ("dates",)),
    Section("Eligibility", _fact("eligibility"), ("8",), ("6b",), ("eligibility",)),
    Section("Treatments", _fact("treatments"), (), ("6c",), ("treatments",)),
    Section("De-identification", _fact("deidentification"), ("11",), (), ("deidentification",)),
    Section("Acquisition", _fact("acquisition"), ("13",), (), ("acquisition",)),
    Section("Preprocessing", _preprocessing, ("9",), ("7", "12b")),
    Section("Parts of the images", _subsets, ("10",), ()),
    Section("What the model sees", _predictors, (), ("9a", "9b", "9c")),
    Section(
        "Reference standard", _fact("reference_standard"), ("14",), ("8a",), ("reference_standard",)
    ),
    Section("Why this reference", _fact("rationale"), ("15",), (), ("rationale",)),
    Section("Who labelled", _fact("annotators"), ("16", "17"), ("8b", "8c"), ("annotators",)),
    Section("Agreement of readers", _fact("variability"), ("18",), (), ("variability",)),
    Section("Missing data", _fact("missing"), ("12",), ("11",), ("missing",)),
    Section("Partitions", _fact("partitions"), ("19", "20"), ("12a",), ("partitions",)),
    Section("Size", _sample_size, ("21",), ("10",), ("sample_size",)),
    Section("The network", _model, ("22", "24"), ("12c", "12g", "22")),
    Section("Training and choice of the model", _training, ("25", "26", "27"), ("12c",)),
    Section("Class imbalance", _imbalance, (), ("13",)),
    Section("Software", _software, ("23",), ()),
    Section("Measures", _measures, ("28", "29"), ("12d", "12e")),
    Section("What it was evaluated on", _evaluation_data, ("32", "33"), ("16", "20c")),
    Section("Cases in each analysis", _flow, ("35",), ("20a", "21")),
    Section("Characteristics", _characteristics, ("36",), ("20b",), ("demographics", "treatments")),
    Section("Output and thresholds", _output, (), ("15",)),
    Section("Performance", _performance, ("37", "38"), ("23a",)),
    Section("Subgroups and fairness", _subgroups, (), ("3c", "14", "23a", "23b")),
    Section("Robustness", _robustness, ("30",), ()),
    Section("Explanations", _explanation, ("31",), ()),
    Section("Failures", _failures, ("39",), ()),
    Section("Limitations", _limitations, ("40",), ("26",)),
    Section("Use", _use, (), ("27a", "27b")),
    Section("Updating", _updating, (), ("12f", "24")),
    Section("Next steps", _next_steps, (), ("27c",)),
    Section(
        "Ethics and registration",
        _registration,
        ("34",),
        ("17", "18c", "18d", "19"),
        ("protocol", "involvement", "ethics"),
    ),
    Section("Availability", _availability, ("42", "43"), ("18e", "18f")),
    Section("Funding and interests", _fact("funding"), ("44",), ("18a", "18b"), ("funding",)),
)
"""The card, from top to bottom."""

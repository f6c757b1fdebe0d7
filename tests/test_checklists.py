"""The card that answers CLAIM 2024 and TRIPOD+AI, and what keeps it from being written."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

import fracjax as fj
from fracjax import bundle, checklists, data, dataset_facts
from fracjax.checklists.items import CLAIM, TRIPOD_AI
from fracjax.checklists.sections import SECTIONS
from fracjax.cli import app
from fracjax.dataset_facts import FACTS, DatasetFacts
from fracjax.errors import DataError, UsageError
from fracjax.evaluate import Settings, evaluate_images
from fracjax.evaluate import evaluation as evaluations
from fracjax.metrics import intervals
from fracjax.notice import NOTICE

OF_THE_STUDY = Path(__file__).parents[1] / "docs/model-card-facts.json"


@pytest.fixture(scope="module")
def subject(tiny_bundle, data_dir):
    """The tiny bundle, evaluated on all the images of the dummy FracAtlas, changed ones too."""
    images = data.load("frac_atlas", data.splits("frac_atlas", data_dir), data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 50)
        evaluated = evaluate_images(fj.load(tiny_bundle), images, Settings(stress=True))
    manifest = bundle.load(tiny_bundle).manifest
    told = dataset_facts.read(OF_THE_STUDY)
    facts = FACTS["frac_atlas"].with_told(told)
    return checklists.Subject(manifest, evaluated.evaluation, facts)


def anchors(page):
    """The places of a page that links can go to, as GitHub makes them of headings."""
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("items", "count", "name"), [(CLAIM, 44, "claim"), (TRIPOD_AI, 52, "tripod")]
)
def test_every_item_is_answered_under_a_heading(items, count, name):
    assert len(items) == count
    answered = {number for section in SECTIONS for number in getattr(section, name)}
    assert answered == set(items)


def test_a_card_has_every_item_with_a_link_that_leads_somewhere(subject):
    page = checklists.render(subject)
    assert NOTICE in page
    places = anchors(page)
    for items in (CLAIM, TRIPOD_AI):
        for number, topic in items.items():
            row = f"| {number} | {topic} | "
            assert page.count(row) == 1
            links = re.findall(r"\(#([^)]+)\)", page.split(row)[1].splitlines()[0])
            assert links
            assert set(links) <= places
    figures = re.findall(r"0\.\d{3} \([^)]*\)", page)
    assert figures
    assert all(re.search(r"n = \d+, \d+ positive, \d+ groups", figure) for figure in figures)
    assert subject.evaluation.data_sha256 in page


@pytest.mark.parametrize(
    ("section", "fact"),
    [(s, fact) for s in SECTIONS for fact in s.facts],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_fact_there_is_no_card(section, fact, subject):
    facts = dataclasses.replace(subject.facts, **{fact: ""})
    with pytest.raises(UsageError) as told:
        checklists.render(dataclasses.replace(subject, facts=facts))
    assert f'give "{fact}" in a file for --facts' in str(told.value)
    for number in (*section.claim, *section.tripod):
        assert re.search(rf"[ ,]{number}[,;)]", str(told.value))


def test_every_fact_is_asked_for():
    asked = {fact for section in SECTIONS for fact in section.facts}
    names = {field.name for field in dataclasses.fields(DatasetFacts)}
    assert asked == names - {"licence", "limits"}


def test_without_changed_images_there_is_no_card(subject):
    calm = dataclasses.replace(subject.evaluation, stresses=())
    with pytest.raises(UsageError, match=r"robustness \(CLAIM 30\): evaluate with --stress"):
        checklists.render(dataclasses.replace(subject, evaluation=calm))


def test_the_evaluation_of_another_data_set_makes_no_card(subject):
    other = dataclasses.replace(subject.evaluation, data="mura/1.1.0, mura:valid")
    with pytest.raises(UsageError, match="give one of other splits of frac_atlas"):
        checklists.render(dataclasses.replace(subject, evaluation=other))


def test_the_evaluation_of_another_aggregation_makes_no_card(subject):
    other = dataclasses.replace(subject.evaluation, aggregation="max", thresholds={})
    with pytest.raises(UsageError, match="evaluate without --aggregate"):
        checklists.render(dataclasses.replace(subject, evaluation=other))


def test_the_evaluation_of_a_worklist_makes_no_card(subject):
    of_worklist = dataclasses.replace(subject.evaluation, data=evaluations.OF_A_WORKLIST)
    with pytest.raises(UsageError, match="give one of a data set"):
        checklists.render(dataclasses.replace(subject, evaluation=of_worklist))


def test_the_evaluation_of_another_model_makes_no_card(subject):
    other = dataclasses.replace(subject.evaluation, weights_sha256="0", model_id="other-0")
    with pytest.raises(UsageError, match="evaluation is of other-0, the bundle is tiny-"):
        checklists.render(dataclasses.replace(subject, evaluation=other))


def test_an_evaluation_is_read_as_it_was_written(subject, tmp_path):
    subject.evaluation.write(tmp_path)
    assert evaluations.read(tmp_path / "evaluation.json").json() == subject.evaluation.json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no evaluation"),
        ("[]", "is no evaluation"),
        ('{"format": "fracjax-evaluation", "version": 3}', "is no evaluation"),
        ('{"format": "fracjax-evaluation", "version": 2}', "is of another version"),
    ],
)
def test_what_is_no_evaluation_is_one_line(text, said, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        evaluations.read(path)


def test_a_model_of_ones_own_images_is_told_of_by_whoever_has_them(subject, tiny_bundle, tmp_path):
    own = dataclasses.replace(subject, facts=FACTS["own_images"])
    with pytest.raises(UsageError) as told:
        checklists.render(own)
    asked = re.findall(r'"(\w+)"', str(told.value))
    facts = own.facts.with_told(dict.fromkeys(asked, "Told by whoever has them."))
    assert "Told by whoever has them." in checklists.render(
        dataclasses.replace(subject, facts=facts)
    )


def test_the_command_writes_a_card_and_takes_facts(subject, tiny_bundle, tmp_path):
    subject.evaluation.write(tmp_path)
    facts, out = tmp_path / "facts.json", tmp_path / "card.md"
    told = {"dates": "From one spring to the next.", "limits": ["One more."]}
    facts.write_text(json.dumps(json.loads(OF_THE_STUDY.read_text()) | told))
    command = ["card", tiny_bundle, "--evaluation", tmp_path / "evaluation.json"]
    command += ["--facts", facts, "--out", out]
    app([*map(str, command)], standalone_mode=False)
    assert "## Dates\n\nFrom one spring to the next.\n" in out.read_text()
    assert out.read_text().count("- One more.\n") == 1
    with pytest.raises(UsageError, match="exists already"):
        app([*map(str, command)], standalone_mode=False)
    for text, error, said in (
        ('{"colour": "blue"}', UsageError, "colour is no fact of a data set"),
        ('{"licence": "mine"}', UsageError, "licence is no fact of a data set"),
        ('{"dates": ["then"]}', UsageError, "dates is told by a text"),
        ('{"limits": "none"}', UsageError, "limits is told by texts"),
        ('{"dates": " "}', UsageError, "dates is told by an empty text"),
        ('{"limits": ["One.", ""]}', UsageError, "limits is told by an empty text"),
        ('{"dates": 3}', DataError, "holds no facts"),
        ("{", DataError, "holds no facts"),
    ):
        facts.write_text(text)
        out.unlink(missing_ok=True)
        with pytest.raises(error, match=said):
            app([*map(str, command)], standalone_mode=False)
        assert not out.exists()

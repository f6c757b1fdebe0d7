"""Waits in a queue: against closed forms, and what no order can change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax import queueing
from fracjax.errors import UsageError
from fracjax.metrics import Sample
from fracjax.queueing import Department, read, simulate


def traffic(seed, n, load):
    """One study a minute on average, each read in ``load`` minutes."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(1, n)), rng.exponential(load, n), rng


def test_by_hand():
    arrivals, durations = np.array([0.0, 1, 2, 3]), np.array([5.0, 1, 1, 1])
    first_come = read(arrivals, durations, np.zeros(4), readers=1)
    assert first_come.tolist() == [0, 4, 4, 4]
    ranked = read(arrivals, durations, np.array([0, 0.1, 0.2, 0.3]), readers=1)
    assert ranked.tolist() == [0, 6, 4, 2]
    limited = read(arrivals, durations, np.array([0, 0.1, 0.2, 0.3]), readers=1, max_wait=3.5)
    assert limited.tolist() == [0, 4, 4, 4]
    two = read(arrivals, durations, np.zeros(4), readers=2)
    assert two.tolist() == [0, 0, 0, 0]


def test_first_come_is_the_queue_of_the_textbook():
    """M/M/1: the mean wait is load / (1 - load) readings."""
    arrivals, durations, _ = traffic(0, 400_000, 0.7)
    waits = read(arrivals, durations, np.zeros(len(arrivals)), readers=1)
    assert waits.mean() == pytest.approx(0.7 * 0.7 / 0.3, rel=0.05)


def test_two_classes_wait_as_cobham_says():
    """Non-preemptive priority (Cobham 1954): W0 / (1 - r1), and W0 / ((1 - r1) (1 - r))."""
    arrivals, durations, rng = traffic(1, 400_000, 0.8)
    urgent = rng.random(len(arrivals)) < 0.25
    waits = read(arrivals, durations, urgent.astype(float), readers=1)
    remaining = 0.8 * 0.8  # of the study at hand: load x mean duration, as it is exponential
    assert waits[urgent].mean() == pytest.approx(remaining / (1 - 0.2), rel=0.05)
    assert waits[~urgent].mean() == pytest.approx(remaining / ((1 - 0.2) * (1 - 0.8)), rel=0.08)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), readers=st.integers(1, 3), limit=st.floats(0.1, 20))
def test_every_study_is_read_once_and_never_before_it_comes(seed, readers, limit):
    arrivals, durations, rng = traffic(seed, 60, 1.2 * readers)
    scores = rng.random(60).round(1)
    for max_wait in (limit, np.inf):
        waits = read(arrivals, durations, scores, readers, max_wait)
        assert (waits >= 0).all()
        starts = arrivals + waits
        for start in starts:
            at_work = (starts <= start) & (start < starts + durations - 1e-9)
            assert at_work.sum() <= readers
    if readers == 1:  # one reader is busy or nobody waits, whatever the order
        ends = [np.max(arrivals + read(arrivals, durations, s, 1) + durations)
                for s in (scores, np.zeros(60), -scores)]  # fmt: skip
        assert ends == pytest.approx([ends[0]] * 3)


def test_a_limit_bounds_the_wait_by_that_of_first_come():
    """Who has waited too long stands in line with others who have, and with nobody else."""
    arrivals, durations, rng = traffic(2, 20_000, 0.95)
    scores = rng.random(len(arrivals))
    first_come, ranked, limited = (
        read(arrivals, durations, *order)
        for order in ((np.zeros(len(arrivals)), 1), (scores, 1), (scores, 1, 10.0))
    )
    assert limited.max() < ranked.max()
    assert limited.max() <= max(10.0, first_come.max()) + durations.max()


def cases(seed=0):
    """Studies of a model that takes one positive of twenty for the surest negative."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(500) < 0.2).astype(int)
    scores = 1 / (1 + np.exp(-rng.normal(3 * labels - 1.5, 1)))
    scores[(labels == 1) & (rng.random(500) < 1 / 20)] = 0
    return Sample.of(labels, scores, np.arange(500))


def test_positives_gain_and_missed_ones_pay():
    waits = simulate(cases(), 0.1, Department(studies_per_hour=28, days=60))
    first_come, ranked, limited = (waits[order] for order in queueing.ORDERS)
    assert ranked["positives"].mean_high < first_come["positives"].mean_low
    assert ranked["false_negatives"].mean_low > first_come["false_negatives"].mean_high
    assert limited["all"].longest < ranked["all"].longest
    assert first_come["all"].studies == ranked["all"].studies
    said = "\n".join(queueing.lines(waits, cases(), Department(), 0.1))
    assert "false_negatives" in said
    assert "drawn from 500 labelled studies" in said


def test_it_says_of_how_few_studies_it_is():
    few = Sample.of([1, 0, 0], [0.9, 0.2, 0.1], range(3))
    waits = simulate(few, 0.5, Department(days=5))
    said = queueing.lines(waits, few, Department(days=5), 0.5)
    assert said[0] == "drawn from 3 labelled studies, 1 positive, 0 of them missed"
    assert said[1].startswith("fewer than 10 positives and false negatives: ")
    assert sum("none came" in line for line in said) == 3
    assert not any("(one day)" in line for line in said)
    assert not any("nan" in line for line in said)


def test_what_came_on_one_day_alone_has_no_interval():
    day = np.array([1.0, 3.0])
    wait = queueing._summary([day[:0], day])
    assert (wait.mean, wait.longest, wait.studies) == (2, 3, 2)
    assert queueing._in_words(wait.mean, wait.mean_low, wait.mean_high) == "2.0 (one day)"
    assert queueing._in_words(*queueing._summary([day[:0]])[:3]) == "none came"


def test_a_department_that_cannot_keep_up_is_told_so():
    department = Department(studies_per_hour=90, days=2)
    said = "\n".join(queueing.lines(simulate(cases(), 0.1, department), cases(), department, 0.1))
    assert "the queue grows all day" in said
    assert "readers: 1, at work 100 % of that time" in said


def test_the_same_seed_gives_the_same_waits():
    one, again, other = (simulate(cases(), 0.5, Department(days=5), seed=s) for s in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    "wrong",
    [
        {"studies_per_hour": 0},
        {"minutes_per_study": -1},
        {"readers": 0},
        {"days": 1},
        {"hours": 0},
        {"max_wait": 1e6},
    ],
)
def test_what_is_no_department_is_refused(wrong):
    with pytest.raises(UsageError):
        Department(**wrong)

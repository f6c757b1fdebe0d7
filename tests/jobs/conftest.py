"""A scorer, and a way to run the job without starting processes."""

from contextlib import contextmanager

import pytest

from fracjax import engine
from fracjax.image import Rejected
from fracjax_jobs import scoring
from fracjax_jobs.read import read_entry


@pytest.fixture(scope="session")
def scorer(tiny_bundle):
    """A network with random weights; its batches are small, so that a run has several."""
    return engine.load(tiny_bundle, batch_size=4)


@pytest.fixture(scope="session")
def reading_here():
    """Give a context in which the job reads in this process, for tests of many short runs."""

    def read_all(entries, preprocess, policy, limits):
        for entry in entries:
            if entry.obstacle is None:
                yield entry, read_entry(entry, preprocess, policy)
            else:
                yield entry, [Rejected(entry.obstacle, entry.detail)]

    @contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scoring, "read_all", read_all)
            yield

    return context

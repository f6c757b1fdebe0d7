"""Conformal triage: thresholds that keep their promise whatever the model, from labelled studies.

Positives alone decide what is ruled out, and negatives alone what is ruled in (label-conditional
conformal prediction, Vovk et al. 2005, 4.5), so neither promise depends on how frequent positives
are. That a promise holds for the one sample at hand, and not only on average over samples, is the
choice of the rank (Vovk, Mach. Learn. 92:349, 2013, proposition 2): with n positives, the part of
all positives below the k-th smallest is at most Beta(k, n + 1 - k), so it exceeds e with a chance
of at most P(Binomial(n, e) < k).
"""

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fracjax.errors import DataError
from fracjax.metrics import Sample
from fracjax.notice import NOTICE
from fracjax.triage import FORMAT, VERSION, Band, BandCount, Claim, Triage

if TYPE_CHECKING:
    from fracjax.configs import Target


def fit(
    sample: Sample,
    claim: Claim,
    *,
    model_id: str,
    weights_sha256: str,
    gate_sha256: str,
    target: "Target",
    remarks: Sequence[str] = (),
) -> Triage:
    """Find a site's bands.

    Args:
        sample: Labelled studies with raw likelihoods. Of the studies of one group with one label,
            one counts, drawn by chance: the others are no independent cases.
        claim: What is to be guaranteed.
        model_id: Of the model that gave the likelihoods.
        weights_sha256: Of the same.
        gate_sha256: Of the same.
        target: What a positive label means.
        remarks: What a reader of the bands must know of the labels.

    Raises:
        DataError: There are too few studies of a label for the claim.
    """
    counted = sample.chosen(_one_of_each(sample))
    positives, negatives = (counted.scores[counted.labels == label] for label in (1, 0))
    rule_out = _bound(positives, claim.miss_rate, claim.confidence, "positive", "miss")
    rule_in = -_bound(
        -negatives, claim.false_alarm_rate, claim.confidence, "negative", "false alarm"
    )
    rule_out = min(rule_out, rule_in)  # where both are ruled, nothing is uncertain
    scores = counted.scores
    members: dict[Band, NDArray[np.bool_]] = {
        "rule_in": scores > rule_in,
        "uncertain": (scores >= rule_out) & (scores <= rule_in),
        "rule_out": scores < rule_out,
    }
    digest = hashlib.sha256(counted.labels.astype("<i8").tobytes())
    digest.update(counted.scores.astype("<f8").tobytes())
    return Triage(
        format=FORMAT,
        version=VERSION,
        notice=NOTICE,
        model_id=model_id,
        weights_sha256=weights_sha256,
        gate_sha256=gate_sha256,
        target=target,
        rule_out=rule_out,
        rule_in=rule_in,
        claim=claim,
        studies=len(counted),
        positives=len(positives),
        bands={
            band: BandCount(int(chosen.sum()), int(counted.labels[chosen].sum()))
            for band, chosen in members.items()
        },
        labels_sha256=digest.hexdigest(),
        created=datetime.now(UTC).date().isoformat(),
        remarks=tuple(remarks),
    )


def fewest(rate: float, confidence: float) -> int:
    """Give how many cases it takes for a rate to be promised at all: that none of them is worse."""
    about = math.ceil(math.log(1 - confidence) / math.log(1 - rate))
    # Rounding may put that one off, and then it must agree with what is held to.
    return next(n for n in range(max(1, about - 1), about + 2) if _holds(1, n, rate, confidence))


def _holds(ranks: ArrayLike, cases: int, rate: float, confidence: float) -> NDArray[np.bool_]:
    """Tell whether at most ``rate`` of all lie below the case of a rank, as sure as asked for."""
    return np.asarray(stats.binom.sf(np.asarray(ranks) - 1, cases, rate) >= confidence, np.bool_)


def _bound(
    scores: NDArray[np.float64], rate: float, confidence: float, label: str, error: str
) -> float:
    """Give a score that at most ``rate`` of all such cases lie below, as sure as asked for."""
    ranks = np.arange(1, len(scores) + 1)
    ranks = ranks[_holds(ranks, len(scores), rate, confidence)]
    if len(ranks) == 0:
        needed = fewest(rate, confidence)
        raise DataError(
            f"a {error} rate of at most {100 * rate:g} % with {100 * confidence:g} % confidence "
            f"needs {needed} {label} studies of different patients, and the labels have "
            f"{len(scores)}; label more studies, or claim less with "
            f"--{error.replace(' ', '-')}-rate or --confidence"
        )
    return float(np.sort(scores)[ranks[-1] - 1])


def _one_of_each(sample: Sample) -> NDArray[np.int_]:
    """Draw one study of each group and label, the same whatever the order."""
    _, members = np.unique(sample.groups, return_inverse=True)
    order = np.lexsort((sample.scores, sample.labels, members))
    shuffled = order[np.random.default_rng(0).permutation(len(order))]
    _, first = np.unique((2 * members + sample.labels)[shuffled], return_index=True)
    return np.sort(shuffled[first])

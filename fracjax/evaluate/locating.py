"""Whether heat maps point at what was marked, beside chance and a network that knows nothing.

The pointing game (Zhang et al., arXiv:1608.00507, 4.2) asks whether the hottest place lies in a
marked box; the energy in the boxes is the part of a map's heat that does. Both are easy where boxes
are large, so the part of the picture that boxes cover stands beside them: what a place drawn by
chance would hit. A network with random weights is the sanity check of Adebayo et al.
(arXiv:1810.03292): a map that it makes as well shows the picture and not what was learned.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fracjax import data, metrics
from fracjax.engine import Scorer
from fracjax.explain import Explainer
from fracjax.figure import Figure, Undefined
from fracjax.forward.xla import network_of
from fracjax.heat import Method, on_picture
from fracjax.image import network_input
from fracjax.metrics.intervals import APART

MOST_SEEDS = 8
"""Random networks that are tried: of one that is sure of a negative, no map has any heat."""

ROUNDING = 1e-3
"""Of a pixel, by which a box may reach into the next."""

FEWEST_GROUPS = 10
"""Groups of positive images under which nothing is said of whether maps point right."""

SIDE = 64
"""Cells of a side that maps are compared in."""


@dataclass(frozen=True, slots=True)
class Located:
    """How well heat maps point, over positive images with boxes.

    Attributes:
        method: How the maps were made.
        pointing: Part whose hottest place lies in a box.
        energy: Mean part of the heat that lies in boxes.
        chance: Mean part of the picture that boxes cover: what both would be by chance.
        centre: Part in which the middle of the picture lies in a box.
        above_chance: Pointing less chance, paired by image.
        above_centre: Pointing less the middle, paired by image: body parts lie in the middle.
        above_random: Pointing less that of random weights, paired by image.
        random_pointing: Part whose hottest place lies in a box, by random weights.
        random_likeness: Mean rank correlation of the maps of learned and random weights, -1..1,
            of images where neither is flat.
        random_flat: Images of which random weights gave no heat at all.
    """

    method: Method
    pointing: Figure | Undefined
    energy: Figure | Undefined
    chance: Figure | Undefined
    centre: Figure | Undefined
    above_chance: Figure | Undefined
    above_centre: Figure | Undefined
    above_random: Figure | Undefined
    random_pointing: Figure | Undefined
    random_likeness: Figure | Undefined
    random_flat: int

    @property
    def verdict(self) -> str:
        """Say whether the maps point at what was marked."""
        above = (self.above_chance, self.above_centre, self.above_random)
        for figure in above:
            if isinstance(figure, Undefined) or figure.groups < FEWEST_GROUPS:
                return (
                    "it cannot be told whether the maps point right, of "
                    f"{figure.n} images of {figure.groups} groups: do not rely on them"
                )
        chance, centre, random = map(_is_above, above)
        if not chance:
            return (
                f"the maps were not shown to be better than chance ({self.pointing.n} images): do "
                "not read them"
            )
        missed = 1 - self.pointing.value if isinstance(self.pointing, Figure) else 1.0
        hits = (
            f"the hottest place misses what was marked in {100 * missed:.0f} of 100 images, and "
            "still points at it more often than chance"
        )
        unsure = [
            *([] if centre else ["the middle of the picture"]),
            *([] if random else ["a network with random weights"]),
        ]
        if unsure:
            return (
                f"{hits} would, but not surely more often than {' and '.join(unsure)}: do not "
                "rely on them"
            )
        return f"{hits}, the middle of the picture and random weights would"


def score_map(
    heat: NDArray[np.float32], boxes: NDArray[np.float32]
) -> tuple[float, float, float, float]:
    """Compare a heat map with boxes.

    Args:
        heat: (height, width), 0 or more.
        boxes: (n, 4) as ymin, xmin, ymax, xmax in 0..1.

    Returns:
        Whether the hottest pixel lies in a box, 0 or 1, of a map without heat the covered part;
        the part of the heat in boxes, of such a map the covered part, too; the part of the picture
        that boxes cover; and whether its middle lies in one, 0 or 1.
    """
    inside = in_boxes(heat.shape, boxes)
    covered = float(inside.mean())
    middle = float(inside[heat.shape[0] // 2, heat.shape[1] // 2])
    total = float(heat.sum(dtype=np.float64))
    if total <= 0:
        return covered, covered, covered, middle
    hottest = np.unravel_index(int(heat.argmax()), heat.shape)
    energy = float(heat[inside].sum(dtype=np.float64)) / total
    return float(inside[hottest]), energy, covered, middle


def in_boxes(shape: tuple[int, ...], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which pixels of a picture (height, width) lie in one of boxes (n, 4) in 0..1."""
    height, width = shape
    inside = np.zeros((height, width), bool)
    scale = np.array([height, width, height, width], np.float64)
    for top, left, bottom, right in (boxes * scale).tolist():
        rows, columns = _pixels(top, bottom), _pixels(left, right)
        inside[rows, columns] = True
    return inside


def _pixels(start: float, stop: float) -> slice:
    """Give the pixels that a part of a line touches, one at least, but for rounding."""
    first = int(start + ROUNDING)
    return slice(first, max(first + 1, math.ceil(stop - ROUNDING)))


def locate(
    scorer: Scorer,
    images: data.Radiographs,
    method: Method = "grad_cam",
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> Located | None:
    """Score the heat maps of positive images by their boxes.

    Args:
        scorer: The model.
        images: Labelled images; those that are positive and have boxes count.
        method: How maps are made.
        report: Called now and then with how many images are done, and of how many.

    Returns:
        ``None`` if no positive image has a box.
    """
    rows = [i for i, fact in enumerate(images.facts) if fact.label == 1 and len(fact.boxes)]
    if not rows:
        return None
    preprocess = scorer.manifest.preprocess
    random = _random(scorer, network_input(images[rows[0]].pixels(), preprocess), method)
    learned_scores, random_scores, likeness, groups = [], [], [], []
    flat = 0
    for done, row in enumerate(rows):
        report(done, len(rows))
        example = images[row]
        pixels = example.pixels()
        square = network_input(pixels, preprocess)[np.newaxis]
        learned, blind = (explain(square, method)[0] for explain in (scorer.explain, random))
        learned_scores.append(score_map(on_picture(learned, pixels, preprocess), example.boxes))
        random_scores.append(score_map(on_picture(blind, pixels, preprocess), example.boxes))
        likeness.append(_likeness(learned, blind))
        flat += not blind.any()
        groups.append(example.group)
    pointing, energy, covered, middle = np.array(learned_scores).T
    random_pointing = np.array(random_scores)[:, 0]
    alike = np.array(likeness)
    compared = ~np.isnan(alike)
    members = np.array(groups)
    return Located(
        method,
        pointing=metrics.mean(pointing, groups),
        energy=metrics.mean(energy, groups),
        chance=metrics.mean(covered, groups),
        centre=metrics.mean(middle, groups),
        above_chance=metrics.mean(pointing - covered, groups, APART),
        above_centre=metrics.mean(pointing - middle, groups, APART),
        above_random=metrics.mean(pointing - random_pointing, groups, APART),
        random_pointing=metrics.mean(random_pointing, groups),
        random_likeness=(
            metrics.mean(alike[compared], members[compared], APART)
            if compared.any()
            else Undefined("all maps of random weights are flat", 0, 0, 0)
        ),
        random_flat=flat,
    )


def _random(scorer: Scorer, square: NDArray[np.float32], method: Method) -> Explainer:
    """Give the same network with random weights, drawn until a picture has any heat at all."""
    network = network_of(scorer.manifest)
    for seed in range(MOST_SEEDS):
        drawn = {name: np.asarray(value) for name, value in network.init(seed).items()}
        random = Explainer(network, scorer.manifest.preprocess, drawn)
        if random(square[np.newaxis], method).any():
            break
    return random


def figures_in_words(located: Located) -> list[tuple[str, Figure | Undefined, str]]:
    """Give each figure with its name, and the sign that differences are shown with."""
    return [
        ("hottest place in a box", located.pointing, ""),
        ("part of the heat in boxes", located.energy, ""),
        ("part of the picture that boxes cover", located.chance, ""),
        ("middle of the picture in a box", located.centre, ""),
        ("random weights: hottest place in a box", located.random_pointing, ""),
        ("hottest place, above chance", located.above_chance, "+"),
        ("hottest place, above the middle", located.above_centre, "+"),
        ("hottest place, above random weights", located.above_random, "+"),
        ("random weights: likeness of the maps", located.random_likeness, "+"),
    ]


def lines(located: Located) -> list[str]:
    """Say how well heat maps point."""
    return [
        f"heat maps ({located.method.replace('_', ' ')}) of positive images, against marked boxes",
        *(f"  {name:<40} {figure.shown(sign)}" for name, figure, sign in figures_in_words(located)),
        *(
            [f"  random weights gave no heat at all on {located.random_flat} images"]
            if located.random_flat
            else []
        ),
        f"  {located.verdict}",
    ]


def _is_above(figure: Figure | Undefined) -> bool:
    return isinstance(figure, Figure) and figure.low > 0


def _likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Give Spearman's correlation of two maps; NaN if one is flat."""
    step = max(1, len(one) // SIDE)
    cells = [each[::step, ::step].ravel() for each in (one, other)]
    if any(np.ptp(values) == 0 for values in cells):
        return math.nan
    return float(stats.spearmanr(*cells).statistic)

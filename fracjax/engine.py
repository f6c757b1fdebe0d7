"""A bundle on a device: pictures in; likelihoods out, and which of them may be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fracjax import forward, gate, heat
from fracjax.bundle import BUNDLED, HEADLINE, Bundle, Manifest
from fracjax.bundle import load as load_bundle
from fracjax.calibration import check_prevalence, in_words
from fracjax.card import MEANING
from fracjax.errors import UsageError
from fracjax.forward import Engine, EngineName
from fracjax.heat import Method
from fracjax.image import Picture, ReadPolicy, network_input, read_picture
from fracjax.image.render import least_side
from fracjax.notice import NOTICE
from fracjax.operating import RULES

if TYPE_CHECKING:
    from fracjax.explain import Explainer

DEFAULT_BATCH_SIZE = 16

ROUNDING = 1e-3
"""By which a picture may leave 0..1: a resized white is not quite 1."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of n pictures.

    Attributes:
        likelihoods: float32 (n,) in 0..1, raw, of what the model's target names. Of a
            picture that is not familiar it means nothing.
        distances: float32 (n,), in root mean square standard deviations of the training images'
            features (:func:`fracjax.gate.distances`). The larger, the stranger.
        familiar: bool (n,): whether the distance is within the bundle's threshold, and the picture
            is no negative (:func:`fracjax.gate.are_negatives`).
        others: float32 (n, labels) in 0..1, the same of the further labels that the model has
            learned (``manifest.training.data.labels``).
    """

    likelihoods: NDArray[np.float32]
    distances: NDArray[np.float32]
    familiar: NDArray[np.bool_]
    others: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image.

    Attributes:
        raw_likelihood: What the network puts out, 0..1, for any picture whatever.
        distance: How strange the picture is, as in :class:`Scores`.
        familiar: Whether the picture is like those that the model learned from.
        manifest: The model that gave it, with its figures.
        notes: What a reader of the score should know of the image, as stable codes.
        others: Likelihoods, 0..1, not calibrated, of the further labels that the model has learned.
        prevalence: Part of positives in the population that the likelihood is said of; ``None`` for
            that of the studies that the model was calibrated on.
    """

    raw_likelihood: float
    distance: float
    familiar: bool
    manifest: Manifest
    notes: tuple[str, ...]
    others: Mapping[str, float] = field(default_factory=dict)
    prevalence: float | None = None

    @property
    def likelihood(self) -> float | None:
        """The likelihood, 0..1, of what ``manifest.target`` names, as of a study of this one image.

        It is calibrated if ``manifest.calibration`` is there. ``None`` of a picture that is not
        familiar: of that, the model knows nothing.
        """
        return self._calibrated if self.familiar else None

    @property
    def calls(self) -> tuple[str, ...]:
        """The operating points that call the image positive; none of one that is not familiar."""
        return called(self.manifest, self.raw_likelihood) if self.familiar else ()

    @property
    def _calibrated(self) -> float:
        return calibrated(self.manifest, self.raw_likelihood, self.prevalence)

    def __repr__(self) -> str:
        """Give a line without the raw likelihood: a notebook shows it, of refused pictures too."""
        likelihood = f"{self._calibrated:.3f}"
        if not self.familiar:
            likelihood = f"None ({why_unfamiliar(self.distance, self.manifest.gate.threshold)})"
        notes = f", notes: {', '.join(self.notes)}" if self.notes else ""
        return (
            f"<Prediction likelihood={likelihood}, target {self.manifest.target}, "
            f"model {self.manifest.model_id}{notes}; research use only>"
        )

    def __str__(self) -> str:
        threshold = self.manifest.gate.threshold
        lines = [NOTICE]
        if self.familiar:
            lines += [
                f"{self._calibrated:.3f}  likelihood (0 to 1) that {MEANING[self.manifest.target]}",
                f"       {in_words(self.manifest.calibration, self.prevalence)}",
                *(
                    f"       {'at or above' if name in self.calls else 'below'} {name}: "
                    f"{RULES[name]}"
                    for name in self.manifest.operating_points
                ),
                *(f"{value:.3f}  likelihood of {name}" for name, value in self.others.items()),
            ]
        else:
            measured = f" (distance {self.distance:.2f}; familiar up to {threshold:.2f})"
            lines += [
                f"no likelihood: {why_unfamiliar(self.distance, threshold)}"
                + ("" if self.distance <= threshold else measured)
            ]
        lines += [
            *(f"note: {note}" for note in self.notes),
            f"model {self.manifest.model_id}; on images it was not trained on:",
            f"  AUROC {self.manifest.figures[HEADLINE]}",
        ]
        return "\n".join(lines)


def why_unfamiliar(distance: float, threshold: float) -> str:
    """Say in a few words why a picture that is not familiar is none.

    Args:
        distance: Of the picture, as in :class:`Scores`.
        threshold: The largest distance of a familiar picture, of the bundle's gate.
    """
    if distance <= threshold:
        return "the picture looks like a negative (black and white exchanged)"
    return "the picture is unlike those that the model learned from"


def explained_by(manifest: Manifest, method: Method) -> str:
    """Say below a heat map what made it, and what it is not."""
    numbers = "" if manifest.integers is None else " in float32"
    return f"{manifest.model_id}, {method.replace('_', ' ')}{numbers}: {heat.NO_MARKING}. {NOTICE}"


def calibrated(manifest: Manifest, likelihood: float, prevalence: float | None) -> float:
    """Calibrate a study's raw likelihood, if the model is calibrated; else leave it."""
    if manifest.calibration is None:
        return likelihood
    return float(manifest.calibration.at_prevalence(likelihood, prevalence))


def called(manifest: Manifest, likelihood: float) -> tuple[str, ...]:
    """Name the operating points that call a study of a raw likelihood positive."""
    points = manifest.operating_points.items()
    return tuple(name for name, point in points if likelihood >= point.threshold)


def check_calibrated(manifest: Manifest, prevalence: float | None) -> None:
    """Make sure that likelihoods can be said of a population, if one is asked for.

    Raises:
        UsageError: The prevalence is none, or the model is not calibrated.
    """
    check_prevalence(prevalence)
    if prevalence is not None and manifest.calibration is None:
        raise UsageError(
            f"{manifest.model_id} is not calibrated, so its likelihoods are of no population; "
            "leave --prevalence away, or give a bundle that was trained with data.select"
        )


class Scorer:
    """Scores network inputs, many at once.

    Attributes:
        manifest: What the model is, means and measured.
        bundle: The model itself.
        engine: What computes.
    """

    def __init__(
        self,
        bundle: Bundle,
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: EngineName = "xla",
        cores: int = 0,
    ) -> None:
        """Make a bundle ready to score; the settings are those of :func:`fracjax.forward.create`.

        Raises:
            BundleError: The bundle's variables are not those of its network.
            UsageError: ``batch_size`` is not in 1..``forward.MOST_BATCH_SIZE``, or there is no
                such engine here, or it does not compute in the bundle's numbers.
            ExportError: The engine does not say what it should.
        """
        self.manifest = bundle.manifest
        self.bundle = bundle
        self._forward = forward.create(bundle, batch_size, engine, cores)
        self.engine: Engine = self._forward.engine

    @property
    def batch_size(self) -> int:
        """Images that are best given at once: about as many as asked for, if memory allows."""
        return self._forward.batch_size

    @cached_property
    def _explainer(self) -> "Explainer":
        return forward.explainer(self.bundle)

    def __repr__(self) -> str:
        manifest = self.manifest
        return (
            f"<Scorer of model {manifest.model_id}, target {manifest.target}, "
            f"{len(manifest.scope)} body parts in scope, batch size {self.batch_size}, "
            f"{self.engine}>"
        )

    def score(self, inputs: NDArray[np.floating[Any]]) -> Scores:
        """Score any number of pictures.

        Args:
            inputs: Floating point (n, size, size) in 0..1, of
                :func:`fracjax.image.network_input`.

        Raises:
            ValueError: ``inputs`` are something else.
        """
        likelihoods, features = self._forward(self._checked(inputs))
        distances = gate.distances(self.bundle.gate, features)
        is_near = distances <= self.manifest.gate.threshold
        familiar = is_near & ~gate.are_negatives(self.bundle.gate, features)
        return Scores(likelihoods[:, 0], distances, familiar, likelihoods[:, 1:])

    def explain(
        self, inputs: NDArray[np.floating[Any]], method: Method = "grad_cam"
    ) -> NDArray[np.float32]:
        """Tell where the likelihoods of pictures come from; in float32, whatever scores them.

        Args:
            inputs: As :meth:`score` takes them.
            method: Grad-CAM takes about as long as scoring, integrated gradients some 50 times.

        Returns:
            float32 (n, size, size) in 0..1 over each square, of which the hottest place is 1;
            :func:`fracjax.heat.on_picture` brings it to the radiograph.

        Raises:
            ValueError: As :meth:`score`.
        """
        return self._explainer(self._checked(inputs), method)

    def heat_map(
        self, picture: Picture, method: Method = "grad_cam", prediction: Prediction | None = None
    ) -> NDArray[np.uint8]:
        """Lay what a picture's likelihood comes from over the picture, with what it is below.

        Args:
            picture: As it was read.
            method: How it is found out.
            prediction: Of the picture, as it is shown elsewhere; predicted anew by default.

        Returns:
            uint8 (height, width, 3), BGR, in the pixels of the radiograph.
        """
        preprocess = self.manifest.preprocess
        square = network_input(picture.display, preprocess, picture.shape)
        prediction = prediction or self.predict_picture(picture)
        likelihood = prediction.likelihood
        said = "no likelihood" if likelihood is None else f"likelihood {likelihood:.3f}"
        hot = self.explain(square[np.newaxis], method)[0]
        return heat.overlay(
            picture.display,
            heat.on_picture(hot, picture.display, preprocess),
            prediction.raw_likelihood if prediction.familiar else 0.0,
            f"{self.manifest.target}: {said}. {explained_by(self.manifest, method)}",
        )

    def _checked(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Give the inputs as float32, if they are what the network takes for a picture.

        The network gives a number for anything else, too.
        """
        size = self.manifest.preprocess.image_size
        wanted = (
            f"pictures must be a floating-point array (n, {size}, {size}) in 0..1, as "
            "fracjax.image.network_input makes them"
        )
        given = np.asarray(inputs)
        if given.shape[1:] != (size, size) or not np.issubdtype(given.dtype, np.floating):
            raise ValueError(f"{wanted}; these are {given.dtype} {given.shape}")
        low, high = given.min(initial=0), given.max(initial=1)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # nor NaN
            if not np.isfinite(given).all():
                raise ValueError(f"{wanted}; these have values that are not finite")
            raise ValueError(f"{wanted}; these reach from {low:g} to {high:g}")
        return given.astype(np.float32, copy=False)

    def predict(self, path: Path | str, *, prevalence: float | None = None) -> Prediction:
        """Read and score one image file as ``fracjax score-dir`` does.

        No more of JPEG 2000 is decoded than the network looks at, so that of a large one the
        likelihood is not quite that of :meth:`predict_picture`, given what :meth:`read` reads.

        Args:
            path: The file.
            prevalence: Part of positives in the population that the likelihood is said of.

        Raises:
            UsageError: ``prevalence`` is none, or the model is not calibrated.
            Rejected: The file yields no picture, or one of a body part outside the model's scope.
            OSError: It cannot be read.
        """
        picture = self._read(path, least_side(self.manifest.preprocess))
        return self.predict_picture(picture, prevalence=prevalence)

    def read(self, path: Path | str) -> Picture:
        """Read one image file that the model is meant for.

        Raises:
            Rejected: The file yields no picture, or one of a body part outside the model's scope.
            OSError: It cannot be read.
        """
        return self._read(path, None)

    def _read(self, path: Path | str, wanted: int | None) -> Picture:
        policy = ReadPolicy(body_parts=self.manifest.scope)
        return read_picture(Path(path).read_bytes(), policy, wanted)

    def predict_picture(self, picture: Picture, *, prevalence: float | None = None) -> Prediction:
        """Score one picture.

        Raises:
            UsageError: ``prevalence`` is none, or the model is not calibrated.
        """
        check_calibrated(self.manifest, prevalence)
        square = network_input(picture.display, self.manifest.preprocess, picture.shape)
        scores = self.score(square[np.newaxis])
        return Prediction(
            float(scores.likelihoods[0]),
            float(scores.distances[0]),
            bool(scores.familiar[0]),
            self.manifest,
            picture.notes,
            dict(zip(self.manifest.training.data.labels, scores.others[0].tolist(), strict=True)),
            prevalence,
        )


def load(
    directory: Path | str = BUNDLED,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    engine: EngineName = "auto",
) -> Scorer:
    """Load a bundle, by default the one that ships with the package, ready to score.

    ``fracatlas/int8`` is the same in 8-bit integers.

    Raises:
        BundleError: The bundle is missing, damaged or of an unknown version.
        UsageError: ``batch_size`` is not in 1..``forward.MOST_BATCH_SIZE``, or there is no such
            engine here, or it does not compute in the bundle's numbers.
        ExportError: The engine does not say what it should.
    """
    return Scorer(load_bundle(Path(directory)), batch_size, engine)

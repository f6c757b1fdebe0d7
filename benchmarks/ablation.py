"""What preprocessing, augmentation and architecture do for fracture on FracAtlas, one at a time.

    python benchmarks/ablation.py --data-dir DIR --out runs/ablation \
        --weights resnet50_v1_imagenet1k.safetensors

The protocol: each row learns from fold_1 to fold_3 in equally many epochs, at 224 px, with the same
seed, and is measured on fold_4, which chooses nothing within a row. fold_0 has no part in it: the
bundled model's figures are of that fold, so nothing may be chosen on it. A row differs from the
baseline in the settings that it names and in nothing else; in those that begin at random nothing is
frozen and the learning rate is higher (``FROM_SCRATCH``). Some rows are the baseline with another
seed: a difference that is no larger than theirs means nothing.

The baseline is a ResNet-50 from ImageNet weights of which the last stage and the head learn. Each
row is a training run in a folder of its own under ``--out``. Killed at any time and started again
with the same arguments, it goes on from the last checkpoint, and rows that are finished stand.
``--rows`` chooses some. ``--out/ablation.md`` is the table, written anew after each row. Models are
not kept.
"""

import json
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import data, files, interrupt, metrics, train
from fracjax.configs import Config, Data, Execution, Model, Optimizer, Preprocess, override
from fracjax.engine import DEFAULT_BATCH_SIZE
from fracjax.errors import FracjaxError, UsageError
from fracjax.figure import Figure, Undefined
from fracjax.forward.xla import XlaForward
from fracjax.metrics import ranking
from fracjax.models import Network
from fracjax.notice import NOTICE
from fracjax.task import prepare

BASELINE = "baseline"
RESULT_NAME = "likelihoods.json"
"""In a row's folder, once it is finished: what its model says of each validation image."""

SPENT_NAME = "seconds.txt"
"""In a row's folder: seconds of processor time in training so far."""

PROTOCOL = Config(
    "ablation",
    data=Data("frac_atlas", train=("fold_1", "fold_2", "fold_3"), valid=("fold_4",)),
    preprocess=Preprocess(image_size=224),
    model=Model("resnet50"),
    optimizer=Optimizer(epochs=1, batch_size=16, learning_rate=5e-4, frozen_stages=4),
)

FROM_SCRATCH = ("optimizer.frozen_stages=0", "optimizer.learning_rate=0.001")
"""What a network that begins at random needs in any case."""


@dataclass(frozen=True, slots=True)
class Row:
    """A variant of the protocol.

    Attributes:
        settings: What differs from the baseline, as ``--set`` takes it.
        pretrained: Whether it begins with the given weights, or at random.
    """

    settings: tuple[str, ...] = ()
    pretrained: bool = True

    def config(self, protocol: Config) -> Config:
        """Give the run of this row."""
        return override(protocol, (*(() if self.pretrained else FROM_SCRATCH), *self.settings))


UNCHANGED = tuple(
    f"augment.{name}=0" for name in ("rotation", "scale", "shift", "flip", "contrast", "gamma")
)
ROWS: Mapping[str, Row] = {
    BASELINE: Row(),
    "seed_1": Row(("seed=1",)),
    "seed_2": Row(("seed=2",)),
    "clahe": Row(("preprocess.clahe=2",)),
    "window_percentile": Row(("preprocess.window=percentile",)),
    "border_crop": Row(("preprocess.border=crop",)),
    "fit_crop": Row(("preprocess.fit=crop",)),
    "px_160": Row(("preprocess.image_size=160",)),
    "px_320": Row(("preprocess.image_size=320",)),
    "augment_none": Row(UNCHANGED),
    "augment_noise": Row(("augment.noise=0.05",)),
    "augment_cutout": Row(("augment.cutout=0.4",)),
    "augment_mixup": Row(("augment.mixup=0.2",)),
    "scratch_small_cnn": Row(("model.name=small_cnn",), pretrained=False),
    "scratch_resnet18": Row(("model.name=resnet18",), pretrained=False),
    "scratch_vgg11_bn": Row(("model.name=vgg11_bn", "model.head=pooled"), pretrained=False),
    "scratch_resnet50": Row(("model.name=resnet50",), pretrained=False),
    "scratch_densenet121": Row(("model.name=densenet121",), pretrained=False),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a row has come to.

    Attributes:
        likelihoods: (n,) of the validation images, in their order.
        seconds: Of processor time in training, with what an interrupted run did twice.
    """

    likelihoods: NDArray[np.float64]
    seconds: float


def measure(
    row: Row, protocol: Config, folder: Path, data_dir: Path, weights: Path | None
) -> Result:
    """Train a row, or what an earlier run left of it, and score the validation images.

    Raises:
        FracjaxError: The row cannot be trained; or ``folder`` holds one of other settings.
    """
    config = row.config(protocol)
    task = prepare(config, data_dir, weights if row.pretrained else None)
    claim = folder / train.CLAIM_NAME
    if claim.exists() and json.loads(claim.read_text(encoding="utf-8")) != task.claim:
        raise UsageError(
            f"{folder} holds a row of other settings, images or weights; give another --out"
        )
    result, spent = folder / RESULT_NAME, folder / SPENT_NAME
    if not result.exists():
        before = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
        begin = time.process_time()
        folder.mkdir(parents=True, exist_ok=True)

        def keep_time() -> None:
            files.write_text(spent, str(before + time.process_time() - begin))

        def report(progress: train.Progress) -> None:
            keep_time()
            typer.echo(
                f"{folder.name}: step {progress.step} of {progress.steps}, loss "
                f"{progress.loss:.4f}, {progress.images_per_second:.1f} images/s",
                err=True,
            )

        try:
            variables = train.learn(task, folder, Execution(save_every=50), report)
        finally:
            keep_time()
        forward = XlaForward(
            Network(config.model), config.preprocess, variables, DEFAULT_BATCH_SIZE
        )
        inputs = data.inputs(task.valid, config.preprocess, batch_size=DEFAULT_BATCH_SIZE)
        likelihoods = np.concatenate([forward(batch)[0][:, 0] for batch in inputs])
        files.write_text(result, json.dumps(likelihoods.tolist()))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # hundreds of megabytes a row
    return Result(
        np.array(json.loads(result.read_text(encoding="utf-8"))),
        float(spent.read_text(encoding="utf-8")),
    )


def line(name: str, result: Result, baseline: Result, facts: Sequence[data.Example]) -> str:
    """Write a row of the table: its figure over the validation images, and how it differs."""
    row = ROWS[name]
    sample = metrics.Sample.of(
        [fact.label for fact in facts], result.likelihoods, [fact.group for fact in facts]
    )
    settings = (*row.settings, *(() if row.pretrained else ("from scratch",)))
    cells = [
        name,
        ", ".join(settings),
        _shown(metrics.measure(metrics.Bounded(ranking.auroc), sample), ""),
        ""
        if name == BASELINE
        else _shown(metrics.difference(ranking.auroc, sample, baseline.likelihoods), "+"),
        f"{result.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(lines: Sequence[str], facts: Sequence[data.Example], protocol: Config) -> str:
    """Write the table under what it was measured with."""
    learning = protocol.optimizer
    head = (
        f"{NOTICE}\n\n"
        f"{datetime.now(UTC).date()}, fracture, {protocol.data.name}: learned from "
        f"{', '.join(protocol.data.train)}, measured on {', '.join(protocol.data.valid)} "
        f"(n = {len(facts)} images, {sum(fact.label for fact in facts)} positive, "
        f"{len({fact.group for fact in facts})} groups); {learning.epochs} epochs in batches of "
        f"{learning.batch_size}, seed {protocol.seed}, {protocol.preprocess.image_size} px; "
        f"jax {jax.__version__} on {jax.device_count()} {jax.devices()[0].device_kind}\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        "| row | settings | AUROC of images (95 % interval) | above the baseline (95 % interval) "
        "| training, processor s |\n"
        "|---|---|---|---|---|\n"
    )
    return head + "".join(f"{line}\n" for line in lines)


def _shown(figure: Figure | Undefined, sign: str) -> str:
    if isinstance(figure, Undefined):
        return str(figure)
    value, low, high = (
        format(number, f"{sign}.3f") for number in (figure.value, figure.low, figure.high)
    )
    return f"{value} ({low} to {high})"


def _chosen(names: str) -> list[str]:
    """Give the rows that are asked for, with the baseline that they are compared with first."""
    wanted = [name for name in names.split(",") if name] or list(ROWS)
    for name in wanted:
        if name not in ROWS:
            raise UsageError(f"there is no row {name!r}; choose from {', '.join(ROWS)}")
    return list(dict.fromkeys([BASELINE, *wanted]))


def main(
    data_dir: Annotated[Path, typer.Option(help="Where FracAtlas lies, prepared.")],
    out: Annotated[Path, typer.Option(help="Where the rows and the table go.")],
    weights: Annotated[
        Path | None, typer.Option(help="ImageNet weights that rows of a ResNet-50 begin with.")
    ] = None,
    rows: Annotated[str, typer.Option(help="Names, with commas; all if not given.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value, for all rows.")
    ] = None,
) -> None:
    """Train and measure the rows one after the other, and write the table."""
    interrupt.install()
    logging.basicConfig(level=logging.WARNING)
    try:
        protocol = override(PROTOCOL, settings or [])
        facts = data.load(protocol.data.name, protocol.data.valid, data_dir.expanduser()).facts
        lines: list[str] = []
        baseline: Result | None = None
        for name in _chosen(rows):
            result = measure(ROWS[name], protocol, out / name, data_dir.expanduser(), weights)
            baseline = baseline or result  # it comes first
            lines.append(line(name, result, baseline, facts))
            report = table(lines, facts, protocol)
            files.write_text(out / "ablation.md", report)
    except FracjaxError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(report)


if __name__ == "__main__":
    typer.run(main)

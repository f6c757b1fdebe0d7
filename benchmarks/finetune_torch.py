"""A plain PyTorch fine-tune of the weights that the bundled model began with, on the same groups.

    python benchmarks/finetune_torch.py --data-dir ~/tfds \
        --weights resnet50_v1_imagenet1k.safetensors --out peer.csv --against BUNDLE

320 px, AdamW, horizontal flips, small rotations and changes of contrast, four epochs, the last
state: what somebody who knows the trade writes in an afternoon. It needs PyTorch beside fracjax, in
one environment. Pictures come from the same functions; network, loss, optimiser and augmentation
are PyTorch's. ``--against`` judges a bundle on the same images, paired.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch  # no dependency of fracjax
import typer
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from fracjax import data, engine
from fracjax.configs import CAFFE_BGR_MEAN, Preprocess
from fracjax.evaluate import cases, predict
from fracjax.evaluate.comparing import compare
from fracjax.evaluate.measuring import find, in_words, measure_all
from fracjax.image import network_input
from fracjax.notice import NOTICE

ROTATION, CONTRAST, FLIP = 10.0, 0.2, 0.5
"""Largest turn either way, degrees; largest change of contrast; chance of a flip."""

LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-4, 0.01, 0.1

SHOWN = (
    "auroc",
    "auroc_within_body_part",
    "sensitivity_at_90_specificity",
    "brier",
)

DEPTHS = (3, 4, 6, 3)
EPSILON = 1e-3
"""Of batch norm, as the weights were made with."""


class Bottleneck(nn.Module):  # type: ignore[misc]
    """A bottleneck block of He et al., its stride on the first convolution, with biases."""

    def __init__(self, in_channels: int, width: int, stride: int, *, is_projected: bool) -> None:
        super().__init__()
        channels = 4 * width
        self.branch2a = nn.Conv2d(in_channels, width, 1, stride)
        self.bn2a = nn.BatchNorm2d(width, EPSILON)
        self.branch2b = nn.Conv2d(width, width, 3, padding=1)
        self.bn2b = nn.BatchNorm2d(width, EPSILON)
        self.branch2c = nn.Conv2d(width, channels, 1)
        self.bn2c = nn.BatchNorm2d(channels, EPSILON)
        self.is_projected = is_projected
        if is_projected:
            self.branch1 = nn.Conv2d(in_channels, channels, 1, stride)
            self.bn1 = nn.BatchNorm2d(channels, EPSILON)

    def forward(self, x: Any) -> Any:
        """Map (batch, channels, height, width)."""
        y = functional.relu(self.bn2a(self.branch2a(x)))
        y = functional.relu(self.bn2b(self.branch2b(y)))
        shortcut = self.bn1(self.branch1(x)) if self.is_projected else x
        return functional.relu(self.bn2c(self.branch2c(y)) + shortcut)


class ResNet50(nn.Module):  # type: ignore[misc]
    """ResNet-50 with one output; of random weights, should none be given."""

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.stem_norm = nn.BatchNorm2d(64, EPSILON)
        blocks, in_channels = [], 64
        for stage, depth in enumerate(DEPTHS):
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                width = 64 << stage
                blocks.append(Bottleneck(in_channels, width, stride, is_projected=place == 0))
                in_channels = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(in_channels, 1)
        if weights is not None:
            self._load(load_file(weights))

    def forward(self, x: Any) -> Any:
        """Give logits (batch,) for pictures (batch, 3, height, width)."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        return self.head(self.blocks(x).mean((2, 3)))[:, 0]

    def _load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take values by Keras's names, but for the head."""
        _fill(self.stem, self.stem_norm, arrays, "conv1", "bn_conv1")
        names = [
            f"{stage}{chr(ord('a') + place)}"
            for stage, depth in enumerate(DEPTHS, start=2)
            for place in range(depth)
        ]
        for name, block in zip(names, self.blocks, strict=True):
            for branch in ("2a", "2b", "2c", *(["1"] if block.is_projected else [])):
                convolution, norm = getattr(block, f"branch{branch}"), getattr(block, f"bn{branch}")
                keras = f"{name}_branch{branch}"
                _fill(convolution, norm, arrays, f"res{keras}", f"bn{keras}")


def _fill(convolution: Any, norm: Any, arrays: dict[str, Any], name: str, of_norm: str) -> None:
    values = {
        convolution.weight: arrays[f"{name}/kernel"].transpose(3, 2, 0, 1),
        convolution.bias: arrays[f"{name}/bias"],
        norm.weight: arrays[f"{of_norm}/gamma"],
        norm.bias: arrays[f"{of_norm}/beta"],
        norm.running_mean: arrays[f"{of_norm}/moving_mean"],
        norm.running_var: arrays[f"{of_norm}/moving_variance"],
    }
    with torch.no_grad():
        for tensor, array in values.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)))


def augment(pictures: Any) -> Any:
    """Turn, mirror and change the contrast of pictures (batch, size, size) in 0..1."""
    count = len(pictures)
    angle = torch.deg2rad((2 * torch.rand(count) - 1) * ROTATION)
    mirror = torch.where(torch.rand(count) < FLIP, -1.0, 1.0)
    nought = torch.zeros(count)
    across = torch.stack([angle.cos() * mirror, -angle.sin(), nought], dim=-1)
    along = torch.stack([angle.sin() * mirror, angle.cos(), nought], dim=-1)
    channel = pictures[:, None]
    grid = functional.affine_grid(
        torch.stack([across, along], dim=1), list(channel.shape), align_corners=False
    )
    moved = functional.grid_sample(channel, grid, align_corners=False)[:, 0]
    contrast = (1 + (2 * torch.rand(count) - 1) * CONTRAST)[:, None, None]
    return ((moved - 0.5) * contrast + 0.5).clamp(0, 1)


def read(images: data.Radiographs, size: int) -> Any:
    """Read all pictures once: uint8 (n, size, size)."""
    preprocess = Preprocess(image_size=size)
    squares = [network_input(image.pixels(), preprocess) for image in images]
    return torch.from_numpy(np.rint(np.stack(squares) * 255).astype(np.uint8))


def _inputs(pictures: Any) -> Any:
    mean = torch.tensor(CAFFE_BGR_MEAN)[:, None, None]
    return (pictures[:, None] * 255 - mean).contiguous(memory_format=torch.channels_last)


def train(
    model: Any, pictures: Any, labels: Any, epochs: int, batch: int, *, is_half: bool
) -> None:
    """Fine-tune all of a network; in bfloat16, if asked, where PyTorch does so by itself."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, steps, pct_start=WARMUP
    )
    begin, done = time.monotonic(), 0
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(pictures))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            x = _inputs(augment(pictures[rows].float() / 255))
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                logits = model(x)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            done += 1
            if done % 10 == 0:
                rate = done * batch / (time.monotonic() - begin)
                sys.stderr.write(f"step {done}/{steps}, loss {loss:.4f}, {rate:.1f} images/s\n")


def judge(model: Any, pictures: Any, batch: int) -> NDArray[np.float32]:
    """Give likelihoods (n,)."""
    model.eval()
    with torch.no_grad():
        parts = [
            torch.sigmoid(model(_inputs(part.float() / 255)).float())
            for part in pictures.split(batch)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def main(
    weights: Annotated[Path, typer.Option(help="ResNet-50 v1, by Keras's names.")],
    out: Annotated[Path, typer.Option(help="Where the likelihoods go, .csv.")],
    data_dir: Annotated[Path, typer.Option()] = Path("data"),
    train_on: Annotated[str, typer.Option(help="Splits.")] = "fold_1,fold_2,fold_3,fold_4",
    judge_on: Annotated[str, typer.Option(help="Splits.")] = "fold_0",
    size: int = 320,
    epochs: int = 4,
    batch: int = 16,
    seed: int = 0,
    bfloat16: Annotated[
        bool, typer.Option(help="Fast on a processor that computes in it, and a crawl on others.")
    ] = False,
    against: Annotated[Path | None, typer.Option(help="A bundle, to compare with.")] = None,
) -> None:
    """Fine-tune, and measure on groups that were not learned from."""
    torch.manual_seed(seed)
    learned, held_out = (
        data.load("frac_atlas", splits.split(","), data_dir.expanduser())
        for splits in (train_on, judge_on)
    )
    data.check_disjoint(learned, held_out)
    model = ResNet50(weights).to(memory_format=torch.channels_last)
    labels = torch.tensor([float(fact.label) for fact in learned.facts])
    train(model, read(learned, size), labels, epochs, batch, is_half=bfloat16)
    likelihoods = judge(model, read(held_out, size), batch)
    facts = held_out.facts
    with out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("source", "label", "likelihood", "group"))
        rows.writerows(
            (fact.source, fact.label, likelihood, fact.group)
            for fact, likelihood in zip(facts, likelihoods.tolist(), strict=True)
        )
    studies = [fact.study_id for fact in facts]
    peer = cases.of_studies(cases.of_images(facts, likelihoods), studies)
    measured = measure_all(peer, {})
    said = [NOTICE, f"torch {torch.__version__}, {judge_on}, sha256 {held_out.sha256}"]
    said += [f"  {in_words(name):<34} {find(measured, name).figure}" for name in SHOWN]
    if against is not None:
        scorer = engine.load(against)
        ours = cases.of_studies(
            cases.of_images(facts, predict(scorer, held_out).likelihoods), studies
        )
        comparison = compare(ours, peer.sample.scores, {}, "the PyTorch fine-tune")
        measured = measure_all(ours, {})
        said += [scorer.manifest.model_id]
        said += [f"  {in_words(name):<34} {find(measured, name).figure}" for name in SHOWN]
        said += [f"less {comparison.other}", *(f"  {apart}" for apart in comparison.differences)]
    typer.echo("\n".join(said))


if __name__ == "__main__":
    typer.run(main)

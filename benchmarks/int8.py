"""What the bundled network gains and loses in 8-bit integers, quantised after training.

    pip install nncf
    python benchmarks/int8.py --data-dir ~/tfds

NNCF quantises the network by 300 images that it was trained on, for OpenVINO on a CPU. Of the
images set apart to choose (`data.select`), and of the validation splits, prints the AUROC of either
and how far likelihoods, calls and the gate move; and how much faster it is, one picture at a time.
No engine here computes so (docs/performance.md).
"""

import time
from pathlib import Path
from typing import Annotated, Any

import nncf
import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fracjax import data, finish, gate
from fracjax.bundle import BUNDLED
from fracjax.bundle import load as load_bundle
from fracjax.configs import Preprocess
from fracjax.export.network import onnx_of
from fracjax.forward.quiet_openvino import openvino as ov
from fracjax.image import network_input
from fracjax.notice import NOTICE

CALIBRATING = 300
"""Images that tell the range of each layer."""


def squares(images: data.Radiographs, chosen: NDArray[np.int64], size: Preprocess) -> Any:
    """Give what the network takes of some images, float32 (n, size, size)."""
    return np.stack([network_input(images[int(index)].pixels(), size) for index in chosen])


def answers(compiled: Any, inputs: NDArray[np.float32]) -> tuple[Any, Any, float]:
    """Give likelihoods (n,), features (n, d), and the seconds a picture takes."""
    request = compiled.create_infer_request()
    request.infer({0: inputs[:1]})
    begin = time.monotonic()
    given = [[out.copy() for out in request.infer({0: x[None]}).values()] for x in inputs]
    seconds = (time.monotonic() - begin) / len(inputs)
    likelihoods, features = (np.concatenate(each) for each in zip(*given, strict=True))
    return likelihoods[:, 0], features, seconds


def main(
    data_dir: Annotated[Path, typer.Option()] = Path("data"),
    path: Annotated[Path, typer.Option("--bundle", help="The model.")] = BUNDLED,
) -> None:
    """Quantise, measure and compare."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    training, selecting = finish.training_images(manifest, data_dir.expanduser())
    valid = data.load(training.name, manifest.training.data.valid, data_dir.expanduser())
    core = ov.Core()
    model = core.read_model(onnx_of(bundle).SerializeToString())
    size = manifest.preprocess.image_size
    model.reshape([1, size, size])
    chosen = np.random.default_rng(0).permutation(len(training))[:CALIBRATING]
    calibrating = squares(training, chosen, manifest.preprocess)
    quantised = nncf.quantize(model, nncf.Dataset([x[None] for x in calibrating]))
    whole, integers = (
        core.compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for each in (model, quantised)
    )
    typer.echo(NOTICE)
    for title, images in (("set apart to choose", selecting), ("validation", valid)):
        if not len(images):
            continue
        inputs = squares(images, np.arange(len(images)), manifest.preprocess)
        labels = [fact.label for fact in images.facts]
        exact, features, seconds = answers(whole, inputs)
        other, moved, faster = answers(integers, inputs)
        before, after = roc_auc_score(labels, exact), roc_auc_score(labels, other)
        apart = np.abs(exact - other)
        typer.echo(f"\n{title}: {len(images)} images, {sum(labels)} positive")
        typer.echo(f"  AUROC {before:.4f}, in integers {after:.4f} ({after - before:+.4f})")
        typer.echo(
            f"  likelihoods move by {apart.max():.3f} at most, in 95 of 100 by "
            f"{np.quantile(apart, 0.95):.3f} at most, median {np.median(apart):.4f}"
        )
        for name, point in manifest.operating_points.items():
            otherwise = np.mean((exact >= point.threshold) != (other >= point.threshold))
            typer.echo(f"  called otherwise at {name}: {otherwise:.3f}")
        near, far = (
            gate.distances(bundle.gate, each) <= manifest.gate.threshold
            for each in (features, moved)
        )
        typer.echo(f"  familiar to the gate: {near.mean():.3f}, in integers {far.mean():.3f}")
        typer.echo(f"  {seconds / faster:.2f} times as fast")


if __name__ == "__main__":
    typer.run(main)

"""The command line: parse, call, print, exit code. Heavy imports wait for their command."""

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from fracjax import interrupt
from fracjax.errors import FracjaxError
from fracjax.notice import NOTICE
from fracjax.text import printable
from fracjax_jobs.command import score_dir

EXIT_DEFECT = 70
"""For an error that is a defect of this program (EX_SOFTWARE of sysexits.h)."""

app = typer.Typer(
    name="fracjax",
    help=f"Fracture detection on radiographs. {NOTICE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

DataDir = Annotated[Path, typer.Option(help="Where prepared data sets lie.")]


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="frac_atlas or mura.")],
    archive_dir: Annotated[Path, typer.Option(help="Folder that holds the unpacked archive.")],
    data_dir: DataDir = Path("data"),
) -> None:
    """Convert a labelled data set for training."""
    from fracjax import data

    for split, images in data.prepare(dataset, archive_dir, data_dir).items():
        typer.echo(f"{split}: {images} images")


@app.command()
def train(
    workdir: Annotated[Path, typer.Option(help="Checkpoints and the model bundle go here.")],
    config: Annotated[
        str, typer.Option(help="A recipe of fracjax.configs.")
    ] = "fracatlas_resnet50",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.field=value on top of the recipe; may be repeated."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Short for --set preprocess.image_size=N.")
    ] = None,
    data_dir: DataDir = Path("data"),
    weights: Annotated[
        Path | None,
        typer.Option(help="What to begin with: ImageNet weights (.safetensors), or a bundle."),
    ] = None,
    note: Annotated[str, typer.Option(help="What the model card should say of the images.")] = "",
) -> None:
    """Train a model and write its bundle. A run that was interrupted goes on."""
    from rich.console import Console

    from fracjax import configs
    from fracjax import train as training

    settings = list(setting or [])
    if image_size is not None:
        settings.append(f"preprocess.image_size={image_size}")
    recipe = configs.recipe(config, settings)
    console = Console(stderr=True)
    with console.status("reading the data and compiling") as status:

        def report(progress: training.Progress) -> None:
            interrupt.check()
            line = (
                f"step {progress.step}/{progress.steps}, epoch {progress.epoch:.2f}, "
                f"loss {progress.loss:.4f}, {progress.images_per_second:.1f} images/s"
            )
            status.update(line)
            if not console.is_terminal:
                console.print(line, soft_wrap=True)

        manifest = training.fit(
            recipe,
            workdir,
            data_dir=data_dir,
            initial_weights=weights,
            note=note,
            report=report,
        )
    typer.echo(f"{NOTICE}\n{workdir / 'bundle'}: {manifest.model_id}")
    for name, figure in manifest.figures.items():
        typer.echo(f"  {name}: {figure}")


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="A DICOM, JPEG, PNG or TIFF radiograph.")],
    bundle: Annotated[
        Path | None, typer.Option(help="A model bundle; by default the one that ships.")
    ] = None,
) -> None:
    """Score one image."""
    from fracjax import engine
    from fracjax.bundle import BUNDLED
    from fracjax.errors import UsageError
    from fracjax.image import Rejected

    if not file.is_file():  # a pipe would be waited for
        raise UsageError(f"{file} is no file; give a radiograph")
    scorer = engine.load(bundle or BUNDLED, batch_size=1)
    try:
        typer.echo(scorer.predict(file))
    except Rejected as rejected:
        raise UsageError(f"{file} is not scored: {rejected}; give a radiograph") from None


app.command(name="score-dir")(score_dir)


def main() -> None:
    """Run the command line. An expected failure is one line on stderr and an exit code."""
    interrupt.install()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("fracjax").setLevel(logging.INFO)
    try:
        app()
    except FracjaxError as error:
        typer.echo(f"fracjax: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        line = f"fracjax: {what}; check that the path exists and may be used"
        typer.echo(printable(line), err=True)
        sys.exit(FracjaxError.exit_code)
    except Exception:  # noqa: BLE001 - for its exit code; the traceback is shown
        # Python's own code for this, 1, means that the job has ended and some files failed.
        traceback.print_exc()
        sys.exit(EXIT_DEFECT)

"""The command line: parse, call, print, exit code. Heavy imports wait for their command."""

import errno
import importlib.metadata
import logging
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from fracjax import interrupt, privacy
from fracjax.errors import FracjaxError, NotScoredError, TrainingError, UsageError
from fracjax.notice import NOTICE
from fracjax.text import printable, without_folders
from fracjax_jobs.command import BundleOption, EngineOption, score_dir

if TYPE_CHECKING:
    from fracjax.bundle import Manifest

EXIT_DEFECT = 70
"""For an error that is a defect of this program (EX_SOFTWARE of sysexits.h)."""

_Misuse: type[Exception] = typer.BadParameter.__bases__[0]
"""``click.UsageError``, wherever a release of typer keeps it."""

app = typer.Typer(
    name="fracjax",
    help=f"Fracture detection on radiographs. {NOTICE}",
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Command(TyperCommand):
    """A command that says how many arguments are too many, and not which.

    A shell may have put all paths of an export there, and paths carry names.
    """

    allow_extra_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse what is left over.

        Raises:
            UsageError: There are too many arguments, or one is empty: as a path that would be the
                current directory, while it comes of a variable that is not set.
        """
        way_out = f"see {ctx.command_path} --help"
        if "" in args:
            raise UsageError(f"an argument is empty; give it a value, or {way_out}")
        rest = super().parse_args(ctx, args)
        if rest:
            raise UsageError(f"too many arguments, by {len(rest)}; {way_out}")
        return rest


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show what is installed, and exit.")
    ] = False,
) -> None:
    """Answer what is asked without a command."""
    if version:
        typer.echo(
            f"fracjax {importlib.metadata.version('fracjax')}\n"
            f"Python {platform.python_version()}\n"
            f"jax {importlib.metadata.version('jax')}\n"
            f"{NOTICE}"
        )
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(FracjaxError.exit_code)


data_app = typer.Typer(help="Look at labelled data sets.")
app.add_typer(data_app, name="data")

Labels = Annotated[
    Path | None,
    typer.Option(help="CSV: study_key, study_instance_uid or accession_number; label, 0 or 1."),
]
Prevalence = Annotated[
    float | None,
    typer.Option(help="Part of positives among your studies, 0 to 1, to say likelihoods of."),
]
DataDir = Annotated[Path, typer.Option(help="Where prepared data sets lie.")]
Recipe = Annotated[str, typer.Option(help="A recipe of fracjax.configs.")]
Parallel = Annotated[
    Literal["jit", "pmap"], typer.Option(help="One program over all devices, or one a device.")
]
Resident = Annotated[
    bool, typer.Option("--resident", help="Put all images on each device once, as uint8.")
]
SaveEvery = Annotated[
    int, typer.Option(help="Steps between two checkpoints; each epoch ends with one, too.")
]


@app.command(cls=Command)
def prepare(
    dataset: Annotated[
        str,
        typer.Argument(
            help="frac_atlas, mura, grazpedwri_dx, rsna_cervical_spine, or own_images: a folder or "
            "table of your own."
        ),
    ],
    archive_dir: Annotated[Path, typer.Option(help="Folder that holds the unpacked archive.")],
    data_dir: DataDir = Path("data"),
) -> None:
    """Convert a labelled data set for training."""
    from fracjax import data

    for split, images in data.prepare(dataset, archive_dir, data_dir).items():
        typer.echo(f"{split}: {images} images")


@data_app.command(cls=Command)
def audit(
    dataset: Annotated[str, typer.Argument(help="A prepared data set.")],
    data_dir: DataDir = Path("data"),
    splits: Annotated[str | None, typer.Option(help="With commas between; all by default.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where all that was found goes, as .json or .md.")
    ] = None,
) -> None:
    """Look for leakage, copies and shortcuts that would make figures false.

    Exit codes: 0 nothing fails; 1 something does; 2 bad usage.
    """
    if report is not None and report.suffix not in (".json", ".md"):
        raise UsageError(f"{report} is neither .json nor .md; name the report so")
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(f"{report.parent} is no folder; create it, or give another --report")
    from fracjax import data, live
    from fracjax.audit import audit as look

    names = splits.split(",") if splits else data.splits(dataset, data_dir)
    images = {name: data.load(dataset, [name], data_dir) for name in names}
    with live.stages() as show:
        found = look(images, show)
    typer.echo("\n".join(found.lines()))
    if report is not None:
        text = found.json() if report.suffix == ".json" else found.markdown()
        report.write_text(text, encoding="utf-8")
    if found.failed:
        raise typer.Exit(1)


@app.command("import-weights", cls=Command)
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(help="A .pth or .safetensors state dict, or Keras's .h5 or .safetensors."),
    ],
    model: Annotated[str, typer.Option(help="The architecture: resnet50, vgg16_bn, ...")],
    naming: Annotated[
        Literal["torchvision", "timm", "keras", "keras_first"],
        typer.Option(help="Whose names the tensors have."),
    ],
    out: Annotated[Path, typer.Option(help="The new file, .safetensors.")],
    strides: Annotated[
        Literal["v1", "v1.5"] | None,
        typer.Option(help="Where bottleneck blocks halve the picture; weights of both kinds fit."),
    ] = None,
    pixels: Annotated[
        Literal["rgb-imagenet", "rgb-half", "bgr-caffe"] | None,
        typer.Option(help="What pixels the weights were trained on, if not the library's usual."),
    ] = None,
    norm_epsilon: Annotated[
        float | None, typer.Option(help="Of batch norm, if not the library's usual.")
    ] = None,
    licence: Annotated[str, typer.Option(help="What a holder must carry along.")] = "",
) -> None:
    """Turn published weights into a file that training begins with.

    Nothing in the file is executed. What does not fit is refused.
    """
    from fracjax.models.import_weights import import_weights as import_from

    summary = import_from(
        file,
        out,
        name=model,  # type: ignore[arg-type]  # checked there
        naming=naming,
        strides=strides,
        pixels=pixels,
        norm_epsilon=norm_epsilon,
        licence=licence,
    )
    typer.echo(f"{out}: {model}, {summary.values:,} values in {summary.variables} variables")
    if summary.left_out:
        typer.echo(f"left out, since they are no part of the network: {summary.left_out} tensors")
    typer.echo(f"train with {' '.join(summary.settings())}")


@app.command(cls=Command)
def train(
    workdir: Annotated[
        Path, typer.Option(help="Checkpoints, the record and the model bundle go here.")
    ],
    config: Recipe = "fracatlas_resnet50",
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
        typer.Option(help="What to begin with: a file of import-weights, or a bundle."),
    ] = None,
    note: Annotated[str, typer.Option(help="What the model card should say of the images.")] = "",
    parallel: Parallel = "jit",
    resident: Resident = False,
    save_every: SaveEvery = 500,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="One of several processes: of a TPU pod, of Slurm or Open MPI, or as "
            "--coordinator, --processes and --process say.",
        ),
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, for --distributed.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="How many processes there are, for --distributed.")
    ] = None,
    process: Annotated[
        int | None, typer.Option(help="Which of them this is, from 0, for --distributed.")
    ] = None,
) -> None:
    """Train a model and write its bundle. A run that was interrupted goes on."""
    from fracjax import configs

    settings = list(setting or [])
    if image_size is not None:
        settings.append(f"preprocess.image_size={image_size}")
    recipe = configs.recipe(config, settings)
    execution = configs.Execution(parallel, resident, save_every)

    from fracjax import live
    from fracjax import parallel as devices
    from fracjax import train as training

    if distributed:
        devices.join(coordinator, processes, process)
        if not devices.is_first():
            logging.getLogger("fracjax").setLevel(logging.WARNING)
    elif (coordinator, processes, process) != (None, None, None):
        raise UsageError("--coordinator, --processes and --process need --distributed")
    with live.training() as line:
        manifest = training.fit(
            recipe,
            workdir,
            data_dir=data_dir,
            initial_weights=weights,
            note=note,
            execution=execution,
            report=line.step,
            stage=line.stage,
        )
    if not devices.is_first():
        return
    _print_made(manifest, workdir / "bundle")
    typer.echo(f"curves: {workdir / 'report.html'}")


def _print_made(manifest: "Manifest", directory: Path) -> None:
    typer.echo(f"{NOTICE}\n{directory}: {manifest.model_id}")
    for name, figure in manifest.figures.items():
        typer.echo(f"  {name}: {figure}")


@app.command(cls=Command)
def average(
    bundles: Annotated[list[Path], typer.Argument(help="Of models that began alike.")],
    workdir: Annotated[Path, typer.Option(help="The bundle of their mean goes here.")],
    data_dir: DataDir = Path("data"),
    image_size: Annotated[
        int | None, typer.Option(help="Of the network's input; the first one's by default.")
    ] = None,
) -> None:
    """Make one model of several: the mean of their weights, measured anew."""
    from fracjax import average as averaging
    from fracjax import live

    with live.training() as line:
        manifest = averaging.average(
            bundles, workdir, data_dir=data_dir, image_size=image_size, stage=line.stage
        )
    _print_made(manifest, workdir / "bundle")


@app.command(cls=Command)
def sweep(
    workdir: Annotated[
        Path, typer.Option(help="The study, the leaderboard and the trials go here.")
    ],
    search: Annotated[
        list[str],
        typer.Option(help="section.field=low..high, or section.field=a,b,c; may be repeated."),
    ],
    trials: Annotated[
        int, typer.Option(min=1, help="How many to finish, pruned and failed ones included.")
    ] = 30,
    config: Recipe = "fracatlas_resnet50",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.field=value of all trials; may be repeated."),
    ] = None,
    data_dir: DataDir = Path("data"),
    weights: Annotated[
        list[str] | None,
        typer.Option(help="What trials begin with: FILE, or ARCHITECTURE=FILE for each."),
    ] = None,
    parallel: Parallel = "jit",
    resident: Resident = False,
    save_every: SaveEvery = 500,
) -> None:
    """Search for good settings and rank them. A sweep that was interrupted goes on.

    Exit codes: 0 a trial finished; 2 bad usage, or none did.
    """
    from fracjax import configs

    recipe = configs.recipe(config, setting or [])
    execution = configs.Execution(parallel, resident, save_every)

    from rich.console import Console

    from fracjax import live
    from fracjax import sweep as sweeping
    from fracjax.sweep.board import table

    axes, initial_weights = sweeping.parse(search), sweeping.parse_weights(weights or [])
    with live.sweep() as report:
        board = sweeping.run(
            recipe,
            axes,
            workdir,
            data_dir=data_dir,
            trials=trials,
            weights=initial_weights,
            execution=execution,
            report=report,
        )
    Console().print(table(board))
    typer.echo(f"all digits: {workdir / 'leaderboard.csv'}")
    if board.best is None:
        raise TrainingError(f"no trial finished; the leaderboard in {workdir} says why")
    typer.echo(board.command)


@app.command(cls=Command)
def predict(
    file: Annotated[Path, typer.Argument(help="A DICOM, JPEG, PNG or TIFF radiograph.")],
    bundle: BundleOption = None,
    prevalence: Prevalence = None,
    heatmap: Annotated[
        Path | None, typer.Option(help="A new .png: the image, and what moved its likelihood.")
    ] = None,
    heatmap_method: Annotated[
        Literal["grad_cam", "integrated_gradients"], typer.Option(help="How it is found out.")
    ] = "grad_cam",
    engine: EngineOption = "auto",
) -> None:
    """Score one image.

    Exit codes: 0 scored; 2 bad usage, or the file cannot be read; 3 no
    likelihood: the picture is unlike those that the model learned from, or is
    not to be scored (another body part, no radiograph, raw detector values);
    70 a defect of this program.
    """
    from fracjax import files
    from fracjax.bundle import BUNDLED
    from fracjax.engine import check_calibrated, load
    from fracjax.heat import NO_MARKING, encode_png
    from fracjax.image import Reason, Rejected

    if not file.is_file():  # a pipe would be waited for
        raise UsageError(f"{file} is no file; give a radiograph")
    if heatmap is not None:
        if heatmap.suffix != ".png":
            raise UsageError(f"{heatmap} is not named as PNG; give a name like heat.png")
        if heatmap.exists():
            raise UsageError(f"{heatmap} exists already; give another --heatmap")
        if not heatmap.absolute().parent.is_dir():
            raise UsageError(f"{heatmap.parent} is no folder; create it, or give another --heatmap")
    scorer = load(bundle or BUNDLED, batch_size=1, engine=engine)
    check_calibrated(scorer.manifest, prevalence)
    try:
        if heatmap is None:
            prediction = scorer.predict(file, prevalence=prevalence)
        else:  # which shows all pixels, so that all are scored
            picture = scorer.read(file)
            prediction = scorer.predict_picture(picture, prevalence=prevalence)
    except Rejected as rejected:
        unreadable = rejected.reason.is_failure or rejected.reason == Reason.NOT_AN_IMAGE
        kind = UsageError if unreadable else NotScoredError
        way_out = {
            Reason.OUT_OF_SCOPE: "the model does not know this body part, so read it as always",
            Reason.FOR_PROCESSING: "export it FOR PRESENTATION",
            Reason.MULTI_FRAME: "export single frames",
        }.get(rejected.reason, "give a radiograph")
        raise kind(f"{file} is not scored: {rejected}; {way_out}") from None
    typer.echo(prediction)
    if heatmap is not None:
        shown = scorer.heat_map(picture, heatmap_method, prediction)
        files.write_synced(heatmap, encode_png(shown))
        typer.echo(f"{heatmap}: what moved the likelihood, {NO_MARKING}")
    if not prediction.familiar:
        raise typer.Exit(NotScoredError.exit_code)


@app.command(cls=Command)
def evaluate(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A model bundle; of a worklist's labels there is none to give."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A prepared data set.")] = None,
    split: Annotated[
        str | None, typer.Option(help="With commas between; none that the model learned from.")
    ] = None,
    data_dir: DataDir = Path("data"),
    labels: Labels = None,
    worklist: Annotated[
        Path | None, typer.Option(help="Of score-dir, for --labels of its studies.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A column of the labels that studies are told apart by; repeatable."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another bundle, to compare with on the same studies.")
    ] = None,
    aggregate: Annotated[
        Literal["mean", "max", "noisy_or"], typer.Option(help="How images become studies.")
    ] = "mean",
    prevalence: Annotated[
        float | None,
        typer.Option(help="What PPV and NPV are said of, 0 to 1; that of the cases by default."),
    ] = None,
    across_targets: Annotated[
        bool,
        typer.Option(
            "--across-targets", help="Measure a model of fracture by labels of abnormality, or so."
        ),
    ] = False,
    stress: Annotated[
        bool,
        typer.Option(
            "--stress", help="Also score images changed in what should not matter: nine passes."
        ),
    ] = False,
    engine: EngineOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="A new directory for report.html, evaluation.json and cases.csv."),
    ] = None,
) -> None:
    """Measure a model: on a data set, or by a hospital's own labels of a worklist."""
    from fracjax.engine import load
    from fracjax.evaluate import running, write_report

    settings = running.Settings(
        aggregate, prevalence, across_targets, stress, without_folders(sys.argv[1:])
    )
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already; give another --out")
    if (
        labels is not None
        and worklist is not None
        and (bundle, dataset, split) == (None, None, None)
    ):
        for option, given in (
            ("--against", against is not None),
            ("--stress", stress),
            ("--across-targets", across_targets),
            ("--engine", engine != "auto"),
        ):
            if given:
                raise UsageError(
                    f"{option} needs images to score; give --dataset and --split with it"
                )
        evaluated = running.evaluate_site(labels, worklist, settings, by or [])
    elif bundle is not None and dataset and split and (labels, worklist) == (None, None):
        from fracjax import data, live

        images = data.load(dataset, split.split(","), data_dir)
        scorer = load(bundle, engine=engine)
        other = None if against is None else load(against, engine=engine)
        with live.stages() as show:
            evaluated = running.evaluate_images(scorer, images, settings, against=other, stage=show)
    else:
        raise UsageError(
            "give a bundle with --dataset and --split, or --labels with --worklist, to measure"
        )
    typer.echo("\n".join(evaluated.evaluation.lines()))
    if out is not None:
        write_report(evaluated, out)
        typer.echo(f"\n{out}: report.html for a browser, evaluation.json and cases.csv")


@app.command(cls=Command)
def export(
    out: Annotated[Path, typer.Option(help="A new folder.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A model bundle; by default the one that ships.")
    ] = None,
) -> None:
    """Write a model as ONNX, and in float32 as a jax.export artifact, for other programs."""
    from fracjax import bundle as bundles

    loaded = bundles.load(bundle or bundles.BUNDLED)
    try:
        from fracjax.export.writing import write
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed; pip install "fracjax[export]"') from None
    differences = write(loaded, out)
    typer.echo(NOTICE)
    for reader, found in differences.items():
        typer.echo(f"{reader}: likelihoods of known radiographs differ by {found.likelihood:.1e}")
    written = ", ".join(sorted(path.name for path in out.iterdir()))
    typer.echo(f"{out}: {written}; model.json says more")


@app.command(cls=Command)
def quantize(
    bundle: Annotated[Path, typer.Argument(help="A model bundle, in float32.")],
    data_dir: DataDir = Path("data"),
) -> None:
    """Write a bundle's model in 8-bit integers, measured anew, into its folder int8."""
    from fracjax import bundle as bundles
    from fracjax import live

    try:
        from fracjax import quantize as quantizing
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed; pip install "fracjax[export]"') from None
    with live.training() as line:
        manifest = quantizing.quantize(bundle, data_dir=data_dir, stage=line.stage)
    _print_made(manifest, bundles.find(bundle) / bundles.INT8)
    if manifest.integers is not None:
        typer.echo(f"likelihoods differ from those in float32 {manifest.integers.moved}")


@app.command(cls=Command)
def card(
    bundle: Annotated[Path, typer.Argument(help="A model bundle.")],
    evaluation: Annotated[
        Path, typer.Option(help="Its evaluation.json, of fracjax evaluate --stress --out.")
    ],
    facts: Annotated[
        Path | None,
        typer.Option(help="JSON: what the data set does not tell, by name; see docs/evaluate.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new file, .md; the terminal else.")] = None,
) -> None:
    """Write a model's card by the items of CLAIM 2024 and TRIPOD+AI; fails if one is empty."""
    from fracjax import bundle as bundles
    from fracjax import checklists, dataset_facts, files
    from fracjax.evaluate import evaluation as evaluations

    if out is not None and out.exists():
        raise UsageError(f"{out} exists already; give another --out")
    manifest = bundles.load(bundle).manifest
    known = dataset_facts.FACTS[manifest.training.data.name]
    told = {} if facts is None else dataset_facts.read(facts)
    subject = checklists.Subject(manifest, evaluations.read(evaluation), known.with_told(told))
    page = checklists.render(subject)
    if out is None:
        typer.echo(page)
    else:
        files.write_text(out, page)


@app.command("calibrate-site", cls=Command)
def calibrate_site(
    labels: Annotated[
        Path,
        typer.Option(help="CSV: study_key, study_instance_uid or accession_number; label, 0 or 1."),
    ],
    worklist: Annotated[Path, typer.Option(help="Of score-dir, over the labelled studies.")],
    out: Annotated[Path, typer.Option(help="The file that score-dir --site takes, .json.")],
    miss_rate: Annotated[
        float, typer.Option(help="Largest part of positives that may be ruled out.")
    ] = 0.05,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Largest part of negatives that may be ruled in.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="How sure each of the two is to hold.")] = 0.95,
    each_its_own_patient: Annotated[
        bool,
        typer.Option(
            "--each-its-own-patient", help="No patient has two of the studies; for labels without."
        ),
    ] = False,
) -> None:
    """Find bands of a worklist with a guarantee, from studies that you have labelled."""
    from fracjax import triage, triage_fitting
    from fracjax.evaluate import site

    claim = triage.Claim(miss_rate, false_alarm_rate, confidence)
    if out.suffix != ".json":
        raise UsageError(f"{out} is not named as JSON; give a name like site.json")
    if out.exists():
        raise UsageError(f"{out} exists already, and may be in use; give another --out")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.parent} is no folder; create it, or give another --out")
    read = site.read(labels, worklist)
    if not (read.has_patients or each_its_own_patient):
        raise UsageError(
            f"{labels} has no column {site.PATIENT}, and a guarantee takes studies of different "
            "patients; add it, or say --each-its-own-patient if no patient has two studies"
        )
    found = triage_fitting.fit(
        read.studies.sample,
        claim,
        model_id=read.footer["model_id"],
        weights_sha256=read.footer["weights_sha256"],
        gate_sha256=read.footer["gate"]["sha256"],
        target=read.footer["target"],
        remarks=read.remarks,
    )
    found.write(out)
    typer.echo("\n".join(found.lines()))
    typer.echo(f"{out}: give it to score-dir as --site")


@app.command("simulate-queue", cls=Command)
def simulate_queue(
    cases: Annotated[Path, typer.Argument(help="cases.csv of fracjax evaluate --out.")],
    threshold: Annotated[
        float,
        typer.Option(help="Raw likelihood below which a positive counts as a false negative."),
    ],
    studies_per_hour: Annotated[float, typer.Option(help="That arrive.")] = 24.0,
    minutes_per_study: Annotated[float, typer.Option(help="That reading one takes.")] = 2.0,
    readers: Annotated[int, typer.Option(help="Who read at the same time.")] = 1,
    hours: Annotated[float, typer.Option(help="Of a day in which studies arrive.")] = 12.0,
    max_wait: Annotated[
        float, typer.Option(help="Minutes after which a study is read next.")
    ] = 60.0,
    days: Annotated[int, typer.Option(help="That are simulated.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Simulate how long positives, and those that the model misses, wait in which order."""
    from fracjax import queueing
    from fracjax.evaluate import read_cases

    department = queueing.Department(
        studies_per_hour, minutes_per_study, readers, hours, days, max_wait
    )
    if not 0 <= threshold <= 1:
        raise UsageError(f"a threshold of {threshold:g} is no raw likelihood; give 0 to 1")
    sample = read_cases(cases)
    waits = queueing.simulate(sample, threshold, department, seed=seed)
    typer.echo("\n".join([NOTICE, *queueing.lines(waits, sample, department, threshold)]))


app.command(name="score-dir", cls=Command)(score_dir)


class _OnStderr(logging.Handler):
    """Writes to what ``sys.stderr`` is by then: beside a live line, that is another stream."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def main() -> None:
    """Run the command line. An expected failure is one line on stderr and an exit code."""
    privacy.forbid_core_dumps()
    _open_closed_streams()
    interrupt.install()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_OnStderr()])
    logging.getLogger("fracjax").setLevel(logging.INFO)
    # Orbax writes tracebacks of what it raises as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        sys.exit(app(standalone_mode=False))  # the code of a typer.Exit
    except FracjaxError as error:
        typer.echo(f"fracjax: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except _Misuse as error:
        typer.echo(f"fracjax: {printable(_said_of(error))}", err=True)
        sys.exit(UsageError.exit_code)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room" if is_full else "check that the path exists and may be used"
        typer.echo(printable(f"fracjax: {what}; {way_out}"), err=True)
        sys.exit(FracjaxError.exit_code)
    except Exception:  # noqa: BLE001 - for its exit code; the traceback is shown
        # Python's own code for this, 1, means that the job has ended and some files failed.
        traceback.print_exc()
        sys.exit(EXIT_DEFECT)


def _open_closed_streams() -> None:
    """Give a process the standard streams that it was started without, or a table becomes one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")


def _said_of(error: Any) -> str:
    """Give what typer has to say of a command line that it cannot parse, and where to look."""
    command = "fracjax" if error.ctx is None else error.ctx.command_path
    return f"{error.format_message().rstrip('.')}; see {command} --help"

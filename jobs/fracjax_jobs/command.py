"""``fracjax score-dir``: parse, call, print, exit code."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fracjax.errors import FracjaxError, UsageError
from fracjax.notice import NOTICE
from fracjax.text import printable

if TYPE_CHECKING:
    from fracjax.forward import EngineName
    from fracjax_jobs.score_dir import Options
    from fracjax_jobs.worklist import Paths, Summary

EXIT_SOME_FAILED = 1
EXIT_NOTHING_SCORED = 3
LONGEST_WAIT = 24 * 366 * 100
"""Hours; beyond it, time arithmetic ends."""
MOST_MEMORY = 2**20
"""GiB that no machine has."""

BundleOption = Annotated[
    Path | None,
    typer.Option(help="A model bundle; or fracatlas, the default, or fracatlas/int8, which ship."),
]
EngineOption = Annotated[
    Literal["auto", "openvino", "xla"],
    typer.Option(help="What computes; auto is OpenVINO on a CPU, if it is installed, or XLA."),
]


def score_dir(
    directory: Annotated[Path, typer.Argument(help="The export. It is only read.")],
    out: Annotated[Path, typer.Option(help="The worklist to write, a .parquet file.")],
    bundle: BundleOption = None,
    group_by: Annotated[
        str, typer.Option(help="What plain images make a study: study (each its own) or folder.")
    ] = "study",
    policy: Annotated[
        list[str] | None,
        typer.Option(help="field=value: what counts as a radiograph; may be repeated."),
    ] = None,
    max_wait: Annotated[
        float | None,
        typer.Option(help="Hours after which a study is read next, whatever its likelihood."),
    ] = None,
    identifiers: Annotated[
        str, typer.Option(help="Study UIDs and accession numbers: keep, or hash them.")
    ] = "keep",
    key_file: Annotated[
        Path | None, typer.Option(help="The site's private key for --identifiers hash.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="A spreadsheet beside the worklist.")] = False,
    prevalence: Annotated[
        float | None,
        typer.Option(help="Part of positives among your studies, 0 to 1, to say likelihoods of."),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(help="Bands with a guarantee, of fracjax calibrate-site."),
    ] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(help="A folder for pictures of what moved the first likelihoods."),
    ] = None,
    heatmap_count: Annotated[int, typer.Option(help="Of how many studies, by rank.")] = 20,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what is there; write nothing.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Score everything again.")] = False,
    show_paths: Annotated[
        bool,
        typer.Option("--show-paths", help="Show paths, which may carry names, on this terminal."),
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and errors as lines of JSON on stderr.")
    ] = False,
    engine: EngineOption = "auto",
    engine_cluster: Annotated[
        Literal["ray"] | None,
        typer.Option(help="Spread the work over the nodes of a Ray cluster that is running."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images given to the device at once.")] = 16,
    workers: Annotated[int, typer.Option(help="Reading processes; 0 is one a core.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that reading one file may take.")] = 60.0,
    worker_memory: Annotated[float, typer.Option(help="GiB that reading one file may take.")] = 4.0,
) -> None:
    """Score every radiograph below DIRECTORY and write a worklist, most likely first.

    Whatever ends it, the same command goes on where it stopped.

    Exit codes: 0 no image is lost; 1 a file was set aside that may be an image;
    2 bad usage; 3 no image could be scored; 70 a defect of this program; 130
    interrupted; 143 ended.
    """
    from fracjax_jobs import progress

    try:
        if show_paths and not sys.stdout.isatty():
            raise UsageError(
                "--show-paths shows paths on a terminal only, since they may carry names; the "
                "linkage table has them too"
            )
        options = _options(
            group_by,
            policy or [],
            max_wait,
            identifiers,
            key_file,
            csv,
            prevalence,
            site,
            heatmaps,
            heatmap_count,
            restart,
            engine_cluster,
            workers,
            timeout,
            worker_memory,
        )
        if dry_run:
            _count(directory, out, log_json=log_json)
            return
        summary = _run(directory, out, bundle, batch_size, engine, options, log_json)
    except FracjaxError as error:
        if log_json:
            progress.event("error", message=str(error), exit_code=error.exit_code)
            raise typer.Exit(error.exit_code) from None
        raise
    except SystemExit as stop:
        if log_json:
            progress.event("stopped", exit_code=stop.code)
        else:
            typer.echo("fracjax: stopped; the same command goes on from here", err=True)
        raise
    exit_code = 0
    if summary.images_scored == 0:
        exit_code = EXIT_NOTHING_SCORED
    elif summary.failures:
        exit_code = EXIT_SOME_FAILED
    try:
        _print(summary, out, options, show_paths=show_paths)
        sys.stdout.flush()
    except OSError:  # nobody reads along; the tables are written all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if log_json:
        progress.event("end", exit_code=exit_code, **summary.counts())
    raise typer.Exit(exit_code)


def _options(
    group_by: str,
    policy: list[str],
    max_wait: float | None,
    identifiers: str,
    key_file: Path | None,
    csv: bool,
    prevalence: float | None,
    site: Path | None,
    heatmaps: Path | None,
    heatmap_count: int,
    restart: bool,
    cluster: Literal["ray"] | None,
    workers: int,
    timeout: float,
    worker_memory: float,
) -> "Options":
    from fracjax import triage
    from fracjax.configs import override
    from fracjax.image import ReadPolicy
    from fracjax_jobs.heatmaps import Wanted
    from fracjax_jobs.identifiers import Mode, from_options
    from fracjax_jobs.pool import Limits
    from fracjax_jobs.score_dir import Options
    from fracjax_jobs.studies import GroupBy
    from fracjax_jobs.worklist import Presentation

    if group_by not in list(GroupBy):
        raise UsageError(f"--group-by {group_by} is unknown; give study or folder")
    if identifiers not in list(Mode):
        raise UsageError(f"--identifiers {identifiers} is unknown; give keep or hash")
    if max_wait is not None and not 0 < max_wait <= LONGEST_WAIT:  # nor NaN
        raise UsageError(f"--max-wait {max_wait:g} is no wait; give hours, like 24")
    if not worker_memory < MOST_MEMORY:  # nor NaN
        raise UsageError(f"--worker-memory {worker_memory:g} is no size; give GiB, like 4")
    return Options(
        group_by=GroupBy(group_by),
        policy=override(ReadPolicy(), policy),
        limits=Limits(
            seconds_per_file=timeout,
            bytes_per_worker=round(worker_memory * 2**30),
            workers=workers,
        ),
        presentation=Presentation(
            identifiers=from_options(Mode(identifiers), key_file),
            max_wait=None if max_wait is None else timedelta(hours=max_wait),
            csv=csv,
            prevalence=prevalence,
            site=None if site is None else triage.read(site),
        ),
        restart=restart,
        heatmaps=None if heatmaps is None else Wanted(heatmaps, heatmap_count),
        cluster=cluster,
    )


def _run(
    directory: Path,
    out: Path,
    bundle: Path | None,
    batch_size: int,
    engine_name: "EngineName",
    options: "Options",
    log_json: bool,
) -> "Summary":
    from fracjax import engine
    from fracjax.bundle import BUNDLED
    from fracjax_jobs import progress
    from fracjax_jobs import score_dir as job

    job.check_paths(directory, out)
    if options.cluster is not None:  # the nodes compute, on this machine's devices, too
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    scorer = engine.load(bundle or BUNDLED, batch_size=batch_size, engine=engine_name)
    with progress.json_lines() if log_json else progress.bar() as report:
        return job.score_dir(directory, out, scorer, options, report=report)


def _count(directory: Path, out: Path, *, log_json: bool) -> None:
    """Print what a run would find, by the first bytes of each file."""
    from fracjax_jobs import progress
    from fracjax_jobs import score_dir as job

    job.check_paths(directory, out)
    counts = job.count(directory)
    if log_json:
        progress.event("count", files_found=counts.total(), kinds=dict(counts.most_common()))
    typer.echo(f"files found       {counts.total():7d}")
    for kind, number in counts.most_common():
        typer.echo(f"  {kind:<16}{number:7d}")
    typer.echo("Nothing was scored or written.")


def _print(summary: "Summary", out: Path, options: "Options", *, show_paths: bool) -> None:
    from fracjax_jobs.studies import Band
    from fracjax_jobs.worklist import Paths

    paths = Paths(out)
    typer.echo(NOTICE)
    typer.echo(f"files found       {summary.files_found:7d}")
    typer.echo(f"images scored     {summary.images_scored:7d}")
    for reason, count in summary.set_aside.most_common():
        lost = summary.lost[reason]
        images = "a lost image" if lost == 1 else f"{lost} lost images"
        note = f"  <- may be {images}" if lost else ""
        typer.echo(f"  {reason:<16}{count:7d}{note}")
    typer.echo(f"studies ranked    {summary.studies[Band.RANKED]:7d}")
    if summary.studies_in_part:
        typer.echo(f"  in part         {summary.studies_in_part:7d}  <- some images were set aside")
    if summary.studies_overdue:
        typer.echo(f"  overdue         {summary.studies_overdue:7d}  <- ranked first")
    if (site := options.presentation.site) is not None:
        for triaged in ("rule_in", "uncertain", "rule_out"):
            typer.echo(f"  {triaged:<16}{summary.triage[triaged]:7d}")
        typer.echo(
            f"    with {100 * site.claim.confidence:g} % confidence at most "
            f"{100 * site.claim.miss_rate:g} % of positive studies are ruled out, and "
            f"{100 * site.claim.false_alarm_rate:g} % of negative ones ruled in, one of each "
            "patient;\n    what is ruled out still has to be read"
        )
    for band in (Band.NOT_SCORED, Band.UNFAMILIAR, Band.OUT_OF_SCOPE):
        if summary.studies[band]:
            typer.echo(
                f"  {band:<16}{summary.studies[band]:7d}  <- no score; before the ranked ones"
            )
    if summary.top:
        keys = [row["top_file_key"] for row in summary.top]
        found = _read_paths(paths, keys) if show_paths else None
        typer.echo("\n" + _table(summary.top, found))
        typer.echo(f"The likelihood is {summary.likelihood}.")
    typer.echo(f"Computed by {summary.engine}.")
    if not summary.is_news:
        typer.echo("\nNothing has changed since the last run.")
    kept = options.presentation.identifiers.key is None
    identified = "with study UIDs and accession numbers" if kept else "with hashed identifiers"
    typer.echo(f"\n{printable(str(paths.worklist))}: the worklist, {identified}.")
    if options.presentation.csv:
        typer.echo(f"{printable(str(paths.csv))}: the same for a spreadsheet.")
    if options.heatmaps is not None and summary.heatmaps is not None:
        typer.echo(
            f"{printable(str(options.heatmaps.directory))}: {summary.heatmaps.pictures} heat maps, "
            "which mark no finding; keep them inside."
        )
        if summary.heatmaps.failed:
            unread = ", ".join(summary.heatmaps.failed)
            typer.echo(f"  none of {unread}: the file could not be read again")
    typer.echo(
        f"{printable(str(paths.files))}: the outcome of every file.\n"
        f"{printable(str(paths.linkage))}: the path of every file key; keep it inside.\n"
        f"{printable(str(paths.state))}: what was done so far; keep it, and the next run goes on."
    )


def _table(rows: list[dict[str, Any]], paths: dict[str, str] | None) -> str:
    """Lay out the first studies. No UID or accession number: what is printed ends up in mails."""
    names = ("rank", f"likelihood of {rows[0]['target']}", "images", "body part", "top image")
    lines = [names if paths is None else (*names, "path")]
    for row in rows:
        key = row["top_file_key"]
        cells = (
            str(row["rank"]) + ("*" if row["is_overdue"] else ""),
            f"{row['likelihood']:.3f}",
            str(row["images_scored"]),
            ", ".join(row["body_parts"]) or "-",
            key,
        )
        lines.append(cells if paths is None else (*cells, paths[key]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _read_paths(paths: "Paths", keys: list[str]) -> dict[str, str]:
    """Look file keys up in the linkage table."""
    import pyarrow.parquet as pq

    table = pq.read_table(
        paths.linkage, columns=["file_key", "path"], filters=[("file_key", "in", keys)]
    )
    return {row["file_key"]: printable(row["path"]) for row in table.to_pylist()}

"""``fracjax score-dir``: parse, call, print, exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fracjax import interrupt
from fracjax.notice import NOTICE

if TYPE_CHECKING:
    from fracjax_jobs.score_dir import Summary

EXIT_SOME_FAILED = 1
EXIT_NOTHING_SCORED = 3
TOP_COLUMNS = ("images", "body part", "top image")


def score_dir(
    directory: Annotated[Path, typer.Argument(help="The export. It is only read.")],
    out: Annotated[Path, typer.Option(help="The worklist to write, a .parquet file.")],
    bundle: Annotated[
        Path | None, typer.Option(help="A model bundle; by default the one that ships.")
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="What plain images make a study: study (each its own) or folder.")
    ] = "study",
    batch_size: Annotated[int, typer.Option(help="Images given to the device at once.")] = 16,
    workers: Annotated[int, typer.Option(help="Reading processes; 0 is one a core.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that reading one file may take.")] = 60.0,
) -> None:
    """Score every radiograph below DIRECTORY and write a worklist, most likely first.

    Exit codes: 0 all images scored; 1 some could not be; 2 bad usage; 3 no image scored; 70 a
    defect of this program; 130 interrupted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from fracjax import engine
    from fracjax.bundle import BUNDLED
    from fracjax.errors import UsageError
    from fracjax_jobs import score_dir as job
    from fracjax_jobs.studies import GroupBy

    if group_by not in list(GroupBy):
        raise UsageError(f"--group-by {group_by} is unknown; give study or folder")
    options = job.Options(GroupBy(group_by), workers, timeout)
    job.check_paths(directory, out)
    scorer = engine.load(bundle or BUNDLED, batch_size=batch_size)
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        "files",
        "{task.fields[rate]}",
        TimeRemainingColumn(),
    )
    with Progress("scoring", *columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, rate="")

        def report(done: int, total: int) -> None:
            interrupt.check()
            speed = bar.tasks[0].speed or 0.0
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s")

        summary = job.score_dir(directory, out, scorer, options, report=report)
    _print(summary, out, scorer.manifest.target)
    if summary.images_scored == 0:
        raise typer.Exit(EXIT_NOTHING_SCORED)
    if summary.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print(summary: "Summary", out: Path, target: str) -> None:
    typer.echo(NOTICE)
    typer.echo(f"files found       {summary.files_found:7d}")
    typer.echo(f"images scored     {summary.images_scored:7d}")
    for reason, count in summary.set_aside.items():
        note = "  <- may be a lost image" if reason.is_failure else ""
        typer.echo(f"  {reason:<16}{count:7d}{note}")
    typer.echo(f"studies ranked    {summary.studies_ranked:7d}")
    if summary.studies_scored_in_part:
        in_part = summary.studies_scored_in_part
        typer.echo(f"  in part         {in_part:7d}  <- some of their images were set aside")
    if summary.studies_not_scored:
        typer.echo(f"studies not scored{summary.studies_not_scored:7d}  <- first in the worklist")
    if summary.top:
        typer.echo(
            "\n" + _columns([("rank", f"likelihood of {target}", *TOP_COLUMNS), *_top(summary)])
        )
    typer.echo(
        f"\n{out}: the worklist, with study UIDs and accession numbers.\n"
        f"{out.with_suffix('.files.parquet')}: the outcome of every file.\n"
        f"{out.with_suffix('.linkage.parquet')}: the path of every file key."
    )


def _top(summary: "Summary") -> list[tuple[str, ...]]:
    rows = []
    for position, study in enumerate(summary.top, start=1):
        body_part = study.header.body_part if study.header else None
        # No UID or accession number: what is printed ends up in logs and mails.
        likelihood = f"{study.likelihood:.3f}"
        row = (position, likelihood, len(study.likelihoods), body_part, study.top_file_key)
        rows.append(tuple(str(cell or "-") for cell in row))
    return rows


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)

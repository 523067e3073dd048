"""`oddlens store`: export, retention and audits of stored inspections."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oddlens.cli.options import JsonOption, KeepDaysOption, KeepGbOption, SeedOption, ThreadsOption, path_option
from oddlens.cli.session import command, opened_store
from oddlens.io.paths import check_output

if TYPE_CHECKING:
    from oddlens.pages.learning.retention import PrunedJobs
    from oddlens.store.audit import Audit
    from oddlens.store.retention import Pruned

app = typer.Typer(help="Export stored inspections, remove old images, and audit a verdict.", no_args_is_help=True)


def parse_time(text: str) -> datetime:
    """A date or time from the command line; without a time zone it is UTC."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a date or time; write 2026-11-30 or 2026-11-30T14:00") from error


StoreOption = Annotated[
    str,
    typer.Option(
        "--store", metavar="URL", help="The store: path of a SQLite file, sqlite:///FILE, or postgresql://..."
    ),
]
SinceOption = Annotated[
    datetime | None, typer.Option("--since", parser=parse_time, metavar="TIME", help="From this time on (UTC).")
]
UntilOption = Annotated[
    datetime | None, typer.Option("--until", parser=parse_time, metavar="TIME", help="Before this time (UTC).")
]
VerdictOption = Annotated[
    Literal["normal", "anomaly"] | None, typer.Option("--verdict", help="Only those with this verdict.")
]
JudgementOption = Annotated[
    Literal["normal", "anomaly", "any"] | None,
    typer.Option("--judgement", help="Only those with this judgement."),
]


@app.command()
def export(
    store: StoreOption,
    output: Annotated[
        Path, path_option("-o", "--output", help="File to write: .csv, .parquet, or .json for Label Studio.")
    ],
    since: SinceOption = None,
    until: UntilOption = None,
    part: Annotated[str | None, typer.Option("--part", help="Only those of this part.")] = None,
    lot: Annotated[str | None, typer.Option("--lot", help="Only those of this lot.")] = None,
    station: Annotated[str | None, typer.Option("--station", help="Only those of this station.")] = None,
    verdict: VerdictOption = None,
    judgement: JudgementOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write inspections, with what people judged, to a file."""
    with command(as_json, threads) as console, opened_store(store, console) as opened:
        from oddlens.store.export import export, find_writer
        from oddlens.store.inspection import Filters

        find_writer(output)
        check_output(output, inputs=[opened.name])
        exported = export(
            opened,
            output,
            Filters(
                since=since, until=until, part=part, lot=lot, station=station, verdict=verdict, judgement=judgement
            ),
        )
        if exported.n_without_image:
            console.say(f"left out: {exported.n_without_image} inspections whose image has expired")
        result = {"n": exported.n, "n_without_image": exported.n_without_image, "files": {"export": str(output)}}
        console.result(result, [f"{exported.n} inspections written to {output}"])


@app.command()
def prune(
    store: StoreOption,
    keep_days: KeepDaysOption = None,
    keep_gb: KeepGbOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be removed.")] = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Remove the oldest images, maps and detector files; what was recorded about them stays."""
    with command(as_json, threads) as console, opened_store(store, console) as opened:
        from oddlens.pages.learning.retention import PrunedJobs, prune_jobs
        from oddlens.pages.learning.workspace import Workspace, workspace_folder

        pruned = opened.prune(keep_days=keep_days, keep_gb=keep_gb, dry_run=dry_run)
        workspace = Workspace.find(workspace_folder(opened.files.folder))
        jobs = PrunedJobs(dry_run, 0, 0)
        if workspace is not None:
            jobs = prune_jobs(workspace, opened.has_served, keep_days, keep_gb, dry_run)
        result = {"expired_jobs": jobs.expired, "expired_job_bytes": jobs.expired_bytes}
        console.result(pruned.as_json() | result, prune_lines(pruned, jobs))


def prune_lines(pruned: Pruned, jobs: PrunedJobs) -> list[str]:
    """What was removed, in words."""
    verb = "would be removed" if pruned.dry_run else "removed"
    span = "" if pruned.oldest is None else f", last used from {pruned.oldest:%Y-%m-%d} to {pruned.youngest:%Y-%m-%d}"
    lines = [f"{verb}: {pruned.expired} files ({pruned.expired_bytes / 1e9:.3f} GB{span})"]
    if pruned.orphans:
        lines.append(f"{verb}: {pruned.orphans} files that a crash left ({pruned.orphan_bytes / 1e9:.3f} GB)")
    if jobs.expired:
        lines.append(f"{verb}: the files of {jobs.expired} checks and fits ({jobs.expired_bytes / 1e9:.3f} GB)")
    return [*lines, f"{pruned.remaining} files remain ({pruned.remaining_bytes / 1e9:.3f} GB)"]


@app.command()
def audit(
    number: Annotated[int, typer.Argument(metavar="ID", help="The inspection's id.")],
    store: StoreOption,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Show everything that made a verdict, and repeat it from the stored image and detector."""
    with command(as_json, threads) as console, opened_store(store, console) as opened:
        from oddlens.store.audit import audit

        audited = audit(opened, number)
        inspection = audited.inspection.as_json() | {"judgement": None}
        rows = [(name, str(value)) for name, value in inspection.items() if value is not None]
        rows += [(f"judgement {one.id}", one.describe()) for one in audited.judgements]
        console.table(f"inspection {number}", ("", ""), rows)
        console.result(audited.as_json(), audit_lines(audited))
        if audited.repeated is not None and not audited.repeated.agrees:
            console.say("the verdict or its score is not repeated: see both above")
            raise typer.Exit(1)


def audit_lines(audited: Audit) -> list[str]:
    """The verdict again, in words."""
    again, recorded = audited.repeated, audited.inspection
    if again is None:
        return [f"not repeated: {audited.reason}"]
    if again.same_bits:
        how = "the same bits"
    else:
        place = "there" if again.same_bits_expected else f"with {again.runtime} on {again.processor}"
        how = f"a relative difference of {again.relative_difference:.2g}, {place}"
    return [
        f"recorded: {recorded.verdict}, score {recorded.anomaly_score!r}",
        f"repeated: {again.verdict}, score {again.anomaly_score!r} ({how})",
    ]

"""`oddlens score`: verdicts on images."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oddlens.cli.options import (
    DetectorArgument,
    DeviceOption,
    GroupByOption,
    JsonOption,
    MaxAnomalousOption,
    ReportOption,
    SeedOption,
    SkipOption,
    StrictOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import (
    check_report,
    command,
    command_line,
    exit_if_shifted,
    report_left_out,
    report_lot,
    report_unreadable,
    with_groups,
)
from oddlens.cli.streams import visible
from oddlens.errors import MissingExtraError, SettingsError, UnreadableImageError
from oddlens.io.journal import journal_path
from oddlens.io.own_files import is_own_png
from oddlens.io.paths import check_output, check_outside_data, expand_home
from oddlens.io.text import list_names

if TYPE_CHECKING:
    from oddlens.batch.scoring_job import ScoringJob
    from oddlens.batch.verdict_files import VerdictRow
    from oddlens.cli.console import Console
    from oddlens.conformal.drift import DriftWatch
    from oddlens.conformal.lot import Lot
    from oddlens.conformal.ranks import Scores
    from oddlens.data.image_set import ImageSet
    from oddlens.detector.detector import Detector
    from oddlens.io.journal import Journal, RunIdentity

ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files and folders.")]
VerdictsOption = Annotated[
    Path | None, path_option("-o", "--output", help="Verdict file: .csv, .jsonl or .parquet; by default stdout.")
]
MapsOption = Annotated[Path | None, path_option("--maps", help="Write the anomaly map of each image to this folder.")]
FdrOption = Annotated[
    float | None,
    typer.Option("--fdr", help="False discovery rate: maximum share of normal images among those flagged; 0.05 is 5%."),
]
DriftOption = Annotated[
    Path | None,
    path_option("--watch-drift", help="Keep the state of a stream of images in this .json file, and report drift."),
]
DeltaOption = Annotated[
    float, typer.Option("--delta", help="Probability of ever raising a false drift alarm, for a new stream.")
]
ResumeScoringOption = Annotated[
    bool, typer.Option("--resume", help="Resume an interrupted run with the same output file.")
]


def score(
    path: DetectorArgument,
    sources: ImagesArgument,
    output: VerdictsOption = None,
    maps: MapsOption = None,
    group_by: GroupByOption = None,
    fdr: FdrOption = None,
    watch_drift: DriftOption = None,
    delta: DeltaOption = 0.01,
    max_anomalous: MaxAnomalousOption = 0.1,
    strict: StrictOption = False,
    report: ReportOption = None,
    skip_unreadable: SkipOption = False,
    resume: ResumeScoringOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score images: one row for each with its score, p-value, threshold and verdict."""
    with command(as_json, threads, skips=True) as console:
        from oddlens.batch.scoring_job import ScoringJob
        from oddlens.batch.verdict_files import find_writer
        from oddlens.conformal.lot import Lot, guaranteed_rate
        from oddlens.data.open import open_images
        from oddlens.detector.detector import Detector

        if output is not None:
            find_writer(output)  # refused before anything is scored
        elif resume:
            raise SettingsError("--resume continues a verdict file: name it with -o")
        check_outputs(sources, output, maps, group_by, watch_drift)
        check_report(report, sources)
        detector = Detector.load(path, device=device, threads=console.threads)
        if maps is not None and detector.map_threshold is None:
            raise SettingsError(f"{path}: this detector has no calibrated maps; score without --maps")
        images = open_images(sources, leave_out_own=True)
        left_out = report_left_out(images.left_out, console)
        images = with_groups(images, group_by, detector)
        notes, lot = check_decision(detector, images, fdr, console), Lot(detector.decisions_, max_anomalous)
        watch = open_drift_watch(watch_drift, detector, images, delta, seed or 0)
        job = ScoringJob(detector, images, maps, skip_unreadable)
        job.check_map_files()
        identity = job.identity() | {"state of --watch-drift": None if watch is None else len(watch.scores)}
        started = time.perf_counter()
        with verdict_journal(output, identity, resume, console) as journal:
            resumed, skipped = score_missing(job, journal, console)
            rows, summary = write_verdicts(job, journal, output, fdr, watch, lot)
            judged = None if report is None else job.verdicts(journal, fdr)
            if watch is not None and watch_drift is not None:
                watch.save(watch_drift)
        seconds = {"score": round(time.perf_counter() - started, 3)}
        n = len(images) - len(skipped)
        result = {"n": n, **summary, "skipped": skipped, "left_out": left_out, "resumed": resumed, "seconds": seconds}
        if fdr is None:
            result["false_alarm_rate"] = detector.decisions_.false_alarm_rate
        else:
            result |= {"false_discovery_rate": fdr, "notes": notes}
        tested, rate = lot.test(), guaranteed_rate(detector.decisions_, fdr)
        warnings = [] if tested is None else tested.warnings(rate, option="--max-anomalous")
        result["lot"] = report_lot(tested, warnings, strict, console)
        if watch is not None and watch_drift is not None:
            result["drift"] = report_drift(watch, watch_drift, console)
        if report is not None and judged is not None:
            from oddlens.reporting.score_report import write_score_report

            title = f"{path.name} on {list_names(sources, 3)}"
            write_score_report(
                report, title, detector, *judged, tested, warnings, command_line(), detector_path=str(path), fdr=fdr
            )
            result["files"] = {"report": str(report)}
        if output:
            files = {"verdicts": str(output)} | ({"maps": str(maps)} if maps else {})
            result["files"] = files | result.get("files", {})
            console.result(result, [f"{summary['n_anomalous']} of {n} images flagged; verdicts in {output}"])
        else:
            console.result(result | {"verdicts": rows})
            if not as_json:
                print_csv(rows)
        exit_if_shifted(tested, strict)


def check_outputs(
    sources: Sequence[str], output: Path | None, maps: Path | None, group_by: str | None, watch_drift: Path | None
) -> None:
    """Refuse output files and folders that cannot be written, or would replace or become something else.

    Raises:
        OddlensError: says which, and what to choose instead.
    """
    named = [path for path in (output, maps, watch_drift) if path is not None]
    if len(set(map(os.path.realpath, named))) < len(named):
        raise SettingsError("-o, --maps and --watch-drift need different names")
    if output is not None:
        table = [] if group_by is None else [expand_home(group_by.rpartition(":")[0])]
        check_output(output, inputs=[*sources, *table])
        check_output(journal_path(output))
    if maps is not None:
        check_output(maps / "image_map.png")
        check_outside_data(maps, sources)
    if watch_drift is not None:
        if watch_drift.suffix != ".json":
            raise SettingsError(f"{watch_drift}: the states of --watch-drift end in .json")
        figure = drift_figure_path(watch_drift)
        check_output(watch_drift)
        check_output(figure)
        check_outside_data(figure, sources)
        if os.path.lexists(figure) and not is_own_png(figure):
            raise SettingsError(
                f"{figure}: was not written by oddlens and would be replaced by the figure of --watch-drift; move it "
                "away, or choose another state file"
            )


def drift_figure_path(state: Path) -> Path:
    """The path of the figure of a drift state."""
    return state.with_name(f"{state.name}.png")


def check_decision(detector: Detector, images: ImageSet, fdr: float | None, console: Console) -> list[str]:
    """Refuse images that cannot be judged, before they are scored. Returns notes on what limits the verdicts."""
    decision = detector.decisions_
    decision.check_images(len(images), images.groups, control_fdr=fdr is not None)
    note = None if fdr is None else decision.fdr_warning(len(images), fdr, images.groups)
    if note is None:
        return []
    console.say(note)
    return [note]


def write_verdicts(
    job: ScoringJob, journal: Journal, output: Path | None, fdr: float | None, watch: DriftWatch | None, lot: Lot
) -> tuple[list[VerdictRow], dict[str, Any]]:
    """Write the rows of all images to `output`, update the drift watch, and count them in the lot.

    Returns the rows, if there is no output file, and the number of anomalies and the threshold for JSON.
    """
    from oddlens.batch.verdict_files import open_verdict_file

    decision, rows = job.detector.decisions_, list[dict[str, Any]]()
    n_anomalous, threshold = 0, decision.threshold
    with open_verdict_file(output) if output else contextlib.nullcontext(rows.extend) as write:
        for part in job.rows(journal, fdr, lot):
            write(part)
            n_anomalous += sum(row["label"] for row in part)
            threshold = threshold if decision.grouped else part[0]["threshold"]
            if watch is not None:
                watch.update([row["file"] for row in part], [row["anomaly_score"] for row in part])
    return rows, {"n_anomalous": n_anomalous, "threshold": threshold}


@contextlib.contextmanager
def verdict_journal(output: Path | None, identity: RunIdentity, resume: bool, console: Console) -> Iterator[Journal]:
    """The journal of an unfinished verdict file, and a note on what happens to an earlier one."""
    from oddlens.io.journal import open_journal

    path = None if output is None else journal_path(output)
    exists = path is not None and path.exists()
    with open_journal(path, identity, resume) as journal:
        if exists and not resume:
            console.say(f"{path}: left by an interrupted run; starting over (--resume continues it)")
        elif path is not None and resume and not exists:
            console.say(f"{path}: does not exist, so there is nothing to resume; scoring from the first image")
        console.can_resume = lambda: path is not None and journal.entries > 0
        try:
            yield journal
        except UnreadableImageError as error:
            hint = "; then continue with --resume" if path is not None and journal.entries else ""
            raise UnreadableImageError(error.name, error.reason + hint) from error


def score_missing(job: ScoringJob, journal: Journal, console: Console) -> tuple[int, list[str]]:
    """Score the images that the journal lacks.

    Returns the number of images that it had, and the names of all that were left out.
    """
    resumed, skipped = None, list[str]()
    for done, problems in job.score(journal):
        resumed = done if resumed is None else resumed
        console.counting("scoring", len(job.images), done)
        skipped += report_unreadable(problems, console)
    return resumed or 0, skipped


def open_drift_watch(
    state: Path | None, detector: Detector, images: ImageSet, delta: float, seed: int
) -> DriftWatch | None:
    """The drift watch in a state file, or a new one; None without a file."""
    if state is None:
        return None
    from oddlens.conformal.drift import DriftWatch

    return DriftWatch.open(state, reference_scores(detector, images), delta, seed)


def reference_scores(detector: Detector, images: ImageSet) -> Scores:
    """The calibration scores that a stream of images is compared with: those of its group, where there are groups.

    Raises:
        SettingsError: the calibration images were used for training, or the images are of several groups.
    """
    decision = detector.decisions_
    if not decision.grouped:
        return decision.single.calibration.independent
    names = sorted(set(images.groups))
    if len(names) != 1 or names[0] not in decision.parts:
        raise SettingsError(
            f"drift is watched for one group at a time, with a state file each; these images are of {', '.join(names)}"
        )
    return decision.parts[names[0]].calibration.independent


def report_drift(watch: DriftWatch, state: Path, console: Console) -> dict[str, Any]:
    """Say whether a stream has drifted, and draw its evidence beside the state file. Returns the same for JSON."""
    files = {"state": str(state)}
    with contextlib.suppress(MissingExtraError):  # deployed without matplotlib: the state has all that is drawn
        from oddlens.reporting import figures

        figure = figures.drift_curve(watch.evidence, watch.limit, watch.alarm) if watch.evidence else None
        if figure is not None:
            files["figure"] = str(figures.save_figure(figure, drift_figure_path(state)))
    evidence, n = watch.evidence[-1] if watch.evidence else 0.0, len(watch.scores)
    drivers = [] if watch.alarm is None else [watch.files[index] for index in watch.drivers()]
    if watch.alarm is None:
        console.say(f"no drift: evidence {evidence:.2f} after {n} images, alarm at {watch.limit:.2f}")
    else:
        console.say(
            f"drift: image {watch.alarm + 1} of the stream, {watch.files[watch.alarm]}, raised the alarm: these images "
            "no longer resemble the calibration images, so the false-alarm rate is not guaranteed any more. Look at "
            "them; if they are good, run `oddlens calibrate` with such images, and start a new stream"
        )
        for name in drivers:
            console.say(f"    {name}")
    return {
        "alarm": watch.alarm is not None, "alarm_at": watch.alarm, "n": n, "evidence": evidence,
        "limit": watch.limit, "delta": watch.delta, "drivers": drivers, "files": files,
    }  # fmt: skip


def print_csv(rows: Sequence[VerdictRow]) -> None:
    """Print verdict rows as CSV on stdout, in UTF-8; names as a terminal shows them only where it is one."""
    from oddlens.batch.verdict_files import csv_writer

    if sys.stdout.isatty():
        rows = [row | {"file": visible(row["file"])} for row in rows]
    sys.stdout.flush()
    with csv_writer(sys.stdout.buffer) as write:
        write(rows)
    sys.stdout.buffer.flush()

"""Commands that put a detector to work: score, export."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oddlens.cli.options import (
    DeviceOption,
    GroupByOption,
    JsonOption,
    PartArgument,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import command, with_groups
from oddlens.errors import MissingExtraError, SettingsError, UnreadableImageError

if TYPE_CHECKING:
    from oddlens.batch.scoring_job import ScoringJob
    from oddlens.cli.console import Console
    from oddlens.conformal.drift import DriftWatch
    from oddlens.conformal.ranks import Scores
    from oddlens.data.image_set import ImageSet
    from oddlens.detector.detector import Detector
    from oddlens.io.journal import Journal, RunIdentity


def score(
    detector: PartArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files and folders.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Verdict file: .csv, .jsonl or .parquet; stdout without it.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="Write each image's anomaly map as a picture here.")
    ] = None,
    group_by: GroupByOption = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            "--fdr", help="Of all images flagged now, let at most this share be normal on average (0.05: 5%)."
        ),
    ] = None,
    watch_drift: Annotated[
        Path | None,
        typer.Option("--watch-drift", help="Keep a stream's state in this file, and say when it begins to differ."),
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", help="Chance of ever raising a false drift alarm, of a stream that begins.")
    ] = 0.01,
    skip_unreadable: SkipOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a run that was killed, where its output is.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score images: a row each with its score, p-value, threshold and verdict."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens.batch import verdict_files
        from oddlens.batch.scoring_job import ScoringJob
        from oddlens.conformal.drift import DriftWatch
        from oddlens.data.sources.folders import open_images
        from oddlens.detector.detector import Detector

        if output is not None:
            verdict_files.writer_of(output)  # refused before anything is scored
        elif resume:
            raise SettingsError("--resume goes on with a verdict file: name it with -o")
        part = Detector.load(detector, device=device)
        if maps is not None and part.map_threshold is None:
            raise SettingsError(f"{detector}: this detector has no maps calibrated; score without --maps")
        known = with_groups(open_images(images), group_by, part)
        decision, watch = part.decisions_, None
        decision.require(len(known), known.groups, discoveries=fdr is not None)
        note = None if fdr is None else decision.too_few_for(len(known), fdr, known.groups)
        if note is not None:
            terminal.say(note)
        if watch_drift is not None:
            watch = DriftWatch.open(watch_drift, stream_calibration(part, known), delta, seed or 0)
        stream = ScoringJob(part, known, maps, skip_unreadable)
        run = stream.run() | {"state of --watch-drift": None if watch is None else len(watch.scores)}
        started, flagged, limit = time.perf_counter(), 0, decision.threshold
        rows: list[verdict_files.VerdictRow] = []
        with verdict_journal(output, run, resume, terminal) as journal:
            resumed, skipped = score_missing(stream, journal, terminal)
            with verdict_files.open_verdict_file(output) if output else contextlib.nullcontext(rows.extend) as write:
                for some in stream.rows(journal, fdr):
                    write(some)
                    flagged += sum(row["label"] for row in some)
                    limit = limit if decision.grouped else some[0]["threshold"]
                    if watch is not None:
                        watch.update([row["file"] for row in some], [row["anomaly_score"] for row in some])
            if watch is not None and watch_drift is not None:
                watch.save(watch_drift)
        result: dict[str, Any] = {
            "n": len(known) - len(skipped), "n_anomalous": flagged, "threshold": limit, "skipped": skipped,
            "resumed": resumed, "seconds": {"score": round(time.perf_counter() - started, 3)},
        }  # fmt: skip
        if fdr is None:
            result["false_alarm_rate"] = decision.false_alarm_rate
        else:
            result |= {"false_discovery_rate": fdr, "notes": [note] if note else []}
        if watch is not None and watch_drift is not None:
            result["drift"], told = drift_result(watch, watch_drift)
            for line in told:
                terminal.say(line)
        if output:
            result["files"] = {"verdicts": str(output)} | ({"maps": str(maps)} if maps else {})
            terminal.result(result, [f"{flagged} of {result['n']} images flagged; verdicts in {output}"])
        else:
            terminal.result(result | {"verdicts": rows})
            if not as_json:
                verdict_files.print_csv(rows)


@contextlib.contextmanager
def verdict_journal(output: Path | None, run: RunIdentity, resume: bool, terminal: Console) -> Iterator[Journal]:
    """The journal of a verdict file in the making, and a word on what becomes of an earlier one."""
    from oddlens.io.journal import journal_path, open_journal

    path = None if output is None else journal_path(output)
    begun = path is not None and path.exists()
    with open_journal(path, run, resume) as journal:
        if begun and not resume:
            terminal.say(f"{path}: of a run that was cut off; begun anew (--resume goes on)")
        elif path is not None and resume and not begun:
            terminal.say(f"{path}: is not there, so there is nothing to go on with; scoring from the first image on")
        try:
            yield journal
        except UnreadableImageError as error:
            hint = "; then go on with --resume" if path is not None and journal.entries else ""
            raise UnreadableImageError(error.name, error.reason + hint) from error


def score_missing(stream: ScoringJob, journal: Journal, terminal: Console) -> tuple[int, list[str]]:
    """Score what the journal lacks; gives how many images it had, and the names of all that were left out."""
    resumed, skipped = None, list[str]()
    for done, left_out in stream.score(journal):
        resumed = done if resumed is None else resumed
        terminal.counting("scoring", len(stream.images), done)
        for problem in left_out:
            terminal.say(f"left out: {problem}")
            skipped.append(problem.name)
    return resumed or 0, skipped


def stream_calibration(part: Detector, images: ImageSet) -> Scores:
    """The calibration scores that a stream of images is compared with: those of its group, where there are groups."""
    decisions = part.decisions_
    if not decisions.grouped:
        if decisions.single.folds > 1:
            raise SettingsError(
                "drift is watched against images that no part of the detector learned, and this one was calibrated in "
                "folds; run `oddlens calibrate` with new normal images"
            )
        return decisions.single.calibration_scores
    names = sorted(set(images.groups))
    if len(names) != 1 or names[0] not in decisions.parts:
        raise SettingsError(
            f"drift is watched for one group at a time, with a state file each; these images are of {', '.join(names)}"
        )
    return decisions.parts[names[0]].calibration_scores


def drift_result(watch: DriftWatch, state: Path) -> tuple[dict[str, Any], list[str]]:
    """Draw a stream's picture beside its state; gives what to say of it, as JSON and in lines."""
    files = {"state": str(state)}
    drivers = [watch.files[place] for place in watch.drivers()] if watch.alarm is not None else []
    with contextlib.suppress(MissingExtraError):  # deployed without matplotlib: the state holds all that is drawn
        from oddlens.reporting import figures

        picture = figures.drift_curve(watch.evidence, watch.limit, watch.alarm) if watch.evidence else None
        if picture is not None:
            files["figure"] = str(figures.save_figure(picture, state.with_suffix(".png")))
    evidence = watch.evidence[-1] if watch.evidence else 0.0
    found = {
        "alarm": watch.alarm is not None, "alarm_at": watch.alarm, "n": len(watch.scores), "evidence": evidence,
        "limit": watch.limit, "delta": watch.delta, "drivers": drivers, "files": files,
    }  # fmt: skip
    if watch.alarm is None:
        return found, [
            f"no drift: evidence {evidence:.2f} after {len(watch.scores)} images, alarm at {watch.limit:.2f}"
        ]
    lines = [
        f"drift: image {watch.alarm + 1} of the stream, {watch.files[watch.alarm]}, raised the alarm: these images are "
        f"no longer like the calibration images, so that the false-alarm rate holds no more. Look at them; if they are "
        "good, run `oddlens calibrate` with such images, and begin a new stream",
        *(f"    {name}" for name in drivers),
    ]
    return found, lines

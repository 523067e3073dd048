"""Commands that put a detector to work: score, export."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oddlens.cli.shared import (
    DeviceOption,
    GroupByOption,
    JsonOption,
    PartArgument,
    SeedOption,
    SkipOption,
    ThreadsOption,
    command,
    in_groups,
    usable,
)
from oddlens.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from oddlens.calibration import Scores
    from oddlens.datasets import ImageSet
    from oddlens.detector import Detector
    from oddlens.drift import DriftWatch


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
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score images: a row each with its score, p-value, threshold and verdict."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens import verdicts
        from oddlens.datasets import open_images
        from oddlens.detector import Detector
        from oddlens.drift import DriftWatch
        from oddlens.files import filling

        part = Detector.load(detector, device=device)
        known, skipped = usable(open_images(images), skip_unreadable, terminal)
        if maps is not None and part.map_level is None:
            raise SettingsError(f"{detector}: this detector has no maps calibrated; score without --maps")
        known = in_groups(known, group_by, part)
        decision, watch = part.decisions_, None
        decision.require(len(known), known.groups, discoveries=fdr is not None)
        note = None if fdr is None else decision.too_few_for(len(known), fdr, known.groups)
        if note is not None:
            terminal.say(note)
        if watch_drift is not None:
            watch = DriftWatch.open(watch_drift, stream_calibration(part, known), delta, seed or 0)
        started, flagged, limit = time.perf_counter(), 0, decision.threshold
        rows: list[verdicts.Row] = []
        with (
            verdicts.writing(output) if output else contextlib.nullcontext(rows.extend) as write,
            filling(maps) if maps else contextlib.nullcontext() as folder,
        ):
            counting = partial(terminal.counting, "scoring", len(known))
            for batch in verdicts.judged(part, known, folder, fdr, counting):
                write(batch)
                flagged += sum(row["label"] for row in batch)
                limit = batch[0]["threshold"] if batch and not decision.grouped else limit
                if watch is not None:
                    watch.see([row["file"] for row in batch], [row["anomaly_score"] for row in batch])
        result: dict[str, Any] = {
            "n": len(known), "n_anomalous": flagged, "threshold": limit, "skipped": skipped,
            "seconds": {"score": round(time.perf_counter() - started, 3)},
        }  # fmt: skip
        if fdr is None:
            result["false_alarm_rate"] = decision.false_alarm_rate
        else:
            result |= {"false_discovery_rate": fdr, "notes": [note] if note else []}
        if watch is not None and watch_drift is not None:
            result["drift"], told = watched(watch, watch_drift)
            for line in told:
                terminal.say(line)
        if output:
            result["files"] = {"verdicts": str(output)} | ({"maps": str(maps)} if maps else {})
            terminal.result(result, [f"{flagged} of {len(known)} images flagged; verdicts in {output}"])
        else:
            terminal.result(result | {"verdicts": rows})
            if not as_json:
                verdicts.print_csv(rows)


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


def watched(watch: DriftWatch, state: Path) -> tuple[dict[str, Any], list[str]]:
    """Save a stream's state and its picture; gives what to say of it, as JSON and in lines."""
    watch.save(state)
    files = {"state": str(state)}
    drivers = [watch.files[place] for place in watch.drivers()] if watch.alarm is not None else []
    with contextlib.suppress(MissingExtraError):  # deployed without matplotlib: the state holds all that is drawn
        from oddlens import figures

        picture = figures.drift_curve(watch.evidence, watch.limit, watch.alarm) if watch.evidence else None
        if picture is not None:
            files["figure"] = str(figures.save(picture, state.with_suffix(".png")))
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


def export_detector(
    detector: PartArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .onnx.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write the detector as one ONNX file, refused unless it scores the same."""
    with command(as_json, threads) as terminal:
        from oddlens.detector import Detector

        try:
            from oddlens.export import export
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        difference = export(Detector.load(detector, device="cpu"), output)
        result = {"files": {"onnx": str(output)}, "largest_relative_difference": difference}
        result["seconds"] = {"export": round(time.perf_counter() - terminal.started, 3)}
        terminal.result(
            result, [f"{output}: scores as the detector does (largest relative difference {difference:.1e})"]
        )

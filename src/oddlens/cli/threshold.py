"""Commands that change a detector's decision, and never its scores: threshold, calibrate, feedback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from oddlens.cli.shared import (
    ConfidenceOption,
    DeviceOption,
    GroupByOption,
    JsonOption,
    PartArgument,
    RateOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
    command,
    in_groups,
    summary,
    usable,
)
from oddlens.errors import SettingsError

if TYPE_CHECKING:
    from oddlens.config import DecisionSettings, RuntimeSettings
    from oddlens.detector import Detector

OutOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write the changed detector here; without it, in place.")
]
OnAverageOption = Annotated[
    bool, typer.Option("--on-average", help="Promise the rate on average again, instead of with a confidence.")
]
RuntimeOption = Annotated[
    Literal["torch", "onnxruntime", "openvino"] | None,
    typer.Option("--runtime", help="Score with this from now on; torch runs .safetensors files, the others .onnx."),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Score in this precision from now on.")
]
PercentileOption = Annotated[
    float | None,
    typer.Option(
        "--train-percentile", help="Decide by this percentile of the training scores, which promises nothing."
    ),
]


def threshold(
    detector: PartArgument,
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    on_average: OnAverageOption = False,
    train_percentile: PercentileOption = None,
    output: OutOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Move the threshold of a saved detector, without training; its scores stay as they are."""
    if false_alarm_rate is None and confidence is None and not on_average and train_percentile is None:
        raise typer.BadParameter("nothing to change: give the --false-alarm-rate that the detector shall keep")
    with command(as_json, threads) as terminal:
        from oddlens.detector import Detector

        part = Detector.load(detector)
        before = told(part)
        part.decide(changed(part.manifest.decision, false_alarm_rate, confidence, on_average, train_percentile))
        part.save(output or detector)
        terminal.result(*outcome(part, before, output or detector))


def calibrate(
    detector: PartArgument,
    images: Annotated[list[str], typer.Argument(metavar="NEW_NORMALS...", help="Fresh normal images: files, folders.")],
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    on_average: OnAverageOption = False,
    group_by: GroupByOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    output: OutOption = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Make the decision anew from fresh normal images (a new camera, a new lot), without training."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens.datasets import open_images
        from oddlens.detector import Detector

        part = Detector.load(detector, device=device)
        before = told(part)
        run_by = running(part.manifest.runtime, runtime, precision)
        known, skipped = usable(open_images(images), skip_unreadable, terminal)
        asked = changed(part.manifest.decision, false_alarm_rate, confidence, on_average, None)
        known = in_groups(known, group_by, part if group_by is None else None)  # groups may be new here
        part.calibrate(known, decision=asked, source=", ".join(images), runtime=run_by)
        part.save(output or detector)
        result, lines = outcome(part, before, output or detector)
        terminal.result(result | {"skipped": skipped}, lines)


def feedback(
    detector: PartArgument,
    judged: Annotated[
        Path, typer.Argument(metavar="JUDGED.csv", help="file,judgement lines; a judgement: false alarm, missed, ...")
    ],
    group_by: GroupByOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The new version; NAME-v2 and so on without it.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Propose a new calibration from what people judged, as a new file; the detector stays as it is."""
    with command(as_json, threads) as terminal:
        from oddlens import feedback as judging
        from oddlens.detector import Detector

        place = output or judging.next_version(detector)
        if place.absolute() == detector.absolute():
            raise SettingsError(f"{place}: feedback never changes a detector; write the proposal to another file")
        part = Detector.load(detector, device=device)
        proposal = judging.propose(part, in_groups(judging.read_judged(judged), group_by, part), str(judged))
        proposal.detector.save(place)
        terminal.table(f"{detector.name} and the proposal {place.name}", ("", "before", "after"), proposal.rows)
        result = {
            "files": {"detector": str(place)},
            "changes": [{"what": what, "before": old, "after": new} for what, old, new in proposal.rows],
            "added": proposal.added,
            "notes": list(proposal.notes),
            **summary(proposal.detector),
        }
        look = f"{detector} is unchanged; to take the proposal, use {place} in its stead"
        terminal.result(result, [*proposal.notes, *proposal.detector.decisions_.promises(), look])


def changed(
    now: DecisionSettings,
    false_alarm_rate: float | None,
    confidence: float | None,
    on_average: bool,
    train_percentile: float | None,
) -> DecisionSettings:
    """The decision with what was asked for; a rate asks for the promise, a percentile for none."""
    from oddlens.config import DecisionSettings, parse

    if on_average and confidence is not None:
        raise SettingsError("--on-average and --confidence contradict each other; leave one of them out")
    promised = false_alarm_rate is not None or confidence is not None or on_average
    if promised and train_percentile is not None:
        raise SettingsError("a percentile of the training scores promises no rate; leave --train-percentile out")
    asked: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    values = now.model_dump() | {name: value for name, value in asked.items() if value is not None}
    if promised:
        values["method"] = "conformal"
    if on_average:
        values["confidence"] = None
    if train_percentile is not None:
        values |= {"method": "train_percentile", "train_percentile": train_percentile}
    return parse(DecisionSettings, values, "options")


def running(now: RuntimeSettings, runtime: str | None, precision: str | None) -> RuntimeSettings:
    """The runtime with what was asked for."""
    from oddlens.config import RuntimeSettings, parse

    asked = {"engine": runtime, "precision": precision}
    values = now.model_dump() | {name: value for name, value in asked.items() if value is not None}
    return parse(RuntimeSettings, values, "options")


def told(part: Detector) -> dict[str, Any]:
    """What a detector decides by: for "before"."""
    return {
        "runtime": part.manifest.runtime.model_dump(),
        "threshold": part.decisions_.threshold,
        "false_alarm_rate": part.decisions_.false_alarm_rate,
        "n_calibration": part.manifest.data.n_calibration,
    }


def outcome(part: Detector, before: dict[str, Any], output: Path) -> tuple[dict[str, Any], list[str]]:
    """What both commands say in the end: JSON, and lines."""
    now = told(part)
    moved = [f"{value['threshold']:.6g}" if value["threshold"] is not None else "by group" for value in (before, now)]
    lines = [
        f"{output}: threshold {moved[0]} -> {moved[1]}, "
        f"{before['n_calibration']} -> {now['n_calibration']} calibration images",
        *part.decisions_.told(),
    ]
    return {"files": {"detector": str(output)}, "before": before, **summary(part)}, lines

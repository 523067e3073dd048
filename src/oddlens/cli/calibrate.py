"""`oddlens calibrate`: a new decision from fresh normal images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oddlens.cli.options import (
    ConfidenceOption,
    DeviceOption,
    GroupByOption,
    JsonOption,
    PartArgument,
    RateOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import command, drop_unreadable, with_groups

if TYPE_CHECKING:
    from oddlens.config.base import RuntimeSettings
from oddlens.cli.options import OnAverageOption, OutOption
from oddlens.cli.session import changed_decision, decision_before, decision_result

RuntimeOption = Annotated[
    Literal["torch", "onnxruntime", "openvino"] | None,
    typer.Option("--runtime", help="Score with this from now on; torch runs .safetensors files, the others .onnx."),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Score in this precision from now on.")
]


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
        from oddlens.data.sources.folders import open_images
        from oddlens.detector.detector import Detector

        part = Detector.load(detector, device=device)
        before = decision_before(part)
        run_by = changed_runtime(part.manifest.runtime, runtime, precision)
        known, skipped = drop_unreadable(open_images(images), skip_unreadable, terminal)
        asked = changed_decision(part.manifest.decision, false_alarm_rate, confidence, on_average, None)
        known = with_groups(known, group_by, part if group_by is None else None)  # groups may be new here
        part.calibrate(known, decision=asked, source=", ".join(images), runtime=run_by)
        part.save(output or detector)
        result, lines = decision_result(part, before, output or detector)
        terminal.result(result | {"skipped": skipped}, lines)


def changed_runtime(now: RuntimeSettings, runtime: str | None, precision: str | None) -> RuntimeSettings:
    """The runtime with what was asked for."""
    from oddlens.config.base import RuntimeSettings
    from oddlens.config.parse import parse

    asked = {"engine": runtime, "precision": precision}
    values = now.model_dump() | {name: value for name, value in asked.items() if value is not None}
    return parse(RuntimeSettings, values, "options")

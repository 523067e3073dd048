"""`oddlens calibrate`: a new threshold from new normal images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oddlens.cli.options import (
    ConfidenceOption,
    CountByOption,
    DetectorArgument,
    DeviceOption,
    FromStoreOption,
    GroupByOption,
    JsonOption,
    OnAverageOption,
    OutputOption,
    RateOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import (
    changed_decision,
    command,
    decision_result,
    decision_summary,
    drop_unreadable,
    open_judged,
    report_left_out,
    with_groups,
    without_none,
)
from oddlens.io.paths import check_output

if TYPE_CHECKING:
    from oddlens.config.base import RuntimeSettings

NewImagesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NEW_NORMALS...", help="New normal images: files and folders.")
]
RuntimeOption = Annotated[
    Literal["torch", "onnxruntime", "openvino"] | None,
    typer.Option("--runtime", help="Runtime to score with: torch for .safetensors files, the others for .onnx."),
]
PrecisionOption = Annotated[Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Precision to score in.")]


def calibrate(
    path: DetectorArgument,
    sources: NewImagesArgument = None,
    from_store: FromStoreOption = None,
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    on_average: OnAverageOption = False,
    group_by: GroupByOption = None,
    count_by: CountByOption = "group",
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    output: OutputOption = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Recalibrate on new normal images (a new camera, a new lot), without training."""
    with command(as_json, threads, skips=True) as console:
        from oddlens.data.groups import assign_groups
        from oddlens.data.open import open_images
        from oddlens.detector.detector import Detector

        if (from_store is None) == (not sources):
            raise typer.BadParameter("give new normal images, or --from-store for those judged normal in a store")
        if from_store is not None and group_by is not None:
            raise typer.BadParameter("the images of a store have their groups already; leave --group-by out")
        check_output(output or path)
        detector = Detector.load(path, device=device, threads=console.threads)
        before = decision_summary(detector)
        new_runtime = changed_runtime(detector.manifest.runtime, runtime, precision)
        if from_store is not None:
            images = open_judged(from_store, detector, "normal", console)
        else:
            images = open_images(sources or [], leave_out_own=True)
        left_out = report_left_out(images.left_out, console)
        images, skipped = drop_unreadable(images, skip_unreadable, console)
        decision = changed_decision(detector.manifest.decision, false_alarm_rate, confidence, on_average, None)
        if group_by is not None:  # its groups may be new for this detector
            images = assign_groups(images, group_by)
        elif from_store is None:
            images = with_groups(images, None, detector)
        source = ", ".join(sources or [f"judged normal in {images.source}"])
        detector.calibrate(images, decision=decision, source=source, count_by=count_by, runtime=new_runtime)
        detector.save(output or path)
        result, lines = decision_result(detector, before, output or path)
        console.result(result | {"skipped": skipped, "left_out": left_out}, lines)


def changed_runtime(current: RuntimeSettings, runtime: str | None, precision: str | None) -> RuntimeSettings:
    """The runtime with the requested changes."""
    from oddlens.config.base import RuntimeSettings
    from oddlens.config.parse import parse

    changes = without_none({"engine": runtime, "precision": precision})
    return parse(RuntimeSettings, current.model_dump() | changes, "options")

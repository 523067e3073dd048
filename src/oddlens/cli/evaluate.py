"""`oddlens eval`: the metrics table."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from oddlens.cli.options import (
    DataArgument,
    DataDirOption,
    DetectorArgument,
    DeviceOption,
    GroupByOption,
    JsonOption,
    MaxAnomalousOption,
    NormalOption,
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
    drop_unreadable,
    exit_if_shifted,
    report_left_out,
    report_lot,
    with_groups,
)
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output, check_outside_data

if TYPE_CHECKING:
    from oddlens.data.image_set import DataSet
    from oddlens.detector.detector import Detector
    from oddlens.evaluation.diagnosis import Diagnosis
    from oddlens.evaluation.evaluate import Evaluation

FigureOption = Annotated[
    Path | None, path_option("--figure", help="Draw test images with heatmaps and verdicts here, .png.")
]


def evaluate(
    path: DetectorArgument,
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    group_by: GroupByOption = None,
    report: ReportOption = None,
    figure: FigureOption = None,
    max_anomalous: MaxAnomalousOption = 0.1,
    strict: StrictOption = False,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Compute metrics on a labelled test set, with intervals; on normal images alone, the false-alarm rate."""
    with command(as_json, threads, skips=True) as console:
        from oddlens.data.open import open_dataset
        from oddlens.detector.detector import Detector
        from oddlens.evaluation import evaluate, test_sets
        from oddlens.reporting import evaluation_tables

        check_report(report, [data])
        if figure is not None and figure.suffix != ".png":
            raise SettingsError(f"{figure}: figures end in .png")
        if figure is not None:
            check_output(figure)
            check_outside_data(figure, [data])
        detector = Detector.load(path, device=device, threads=console.threads)
        normal_class = detector.manifest.data.normal
        normal = normal or (normal_class if normal_class not in ("good", "all") else None)
        dataset = open_dataset(data, normal=normal, data_dir=data_dir, progress=console.downloading)
        left_out = report_left_out(dataset.left_out, console)
        dataset = test_sets.with_test_images(dataset, console.say)
        readable, skipped = drop_unreadable(dataset.test, skip_unreadable, console)
        dataset = replace(dataset, test=with_groups(readable, group_by, detector))
        distort = dataset.normal == "all" and not dataset.test.labels.any()  # every class is normal
        test = test_sets.build_test_set(dataset, detector.spec, seed or 0, distort)
        started = time.perf_counter()
        evaluation = evaluate.evaluate(
            detector, test, lambda done: console.counting("scoring", len(test), done), max_anomalous
        )
        seconds = {"score": round(time.perf_counter() - started, 3)}
        masks = evaluation.masks.with_unmatched(dataset.unused_masks)
        for line in masks.lines():
            console.say(line)
        result = {"detector": str(path), **evaluation.metrics, **masks.as_json, "seconds": seconds, "skipped": skipped}
        result["left_out"] = left_out
        if evaluation.n_excluded:
            console.say(f"left out {evaluation.n_excluded} test images that the detector was trained on")
        result["lot"] = report_lot(evaluation.lot, evaluation.guarantee_warnings, strict, console)
        result["alarms_p_value"] = evaluation.alarms_p_value
        title = f"{path.name} on {dataset.name}"
        if report is not None or figure is not None:
            diagnosis = None if report is None else diagnose(dataset, detector)
            result["files"] = write_outputs(report, figure, title, path, detector, evaluation, diagnosis)
        kinds, decisions = evaluation_tables.kinds_table(result), evaluation_tables.decisions_table(result)
        console.table(title, decisions.columns, decisions.rows)
        console.table("", kinds.columns, kinds.rows)
        summary = evaluation_tables.describe_metrics(result, detector.manifest.model.scores_reconstruction)
        console.result(result, [summary, *describe_aurocs(result)])
        exit_if_shifted(evaluation.lot, strict)


def diagnose(dataset: DataSet, detector: Detector) -> Diagnosis | None:
    """What `check` finds in the images, for a report."""
    from oddlens.evaluation.data_checks import check_for_report  # it needs PyTorch

    return check_for_report(dataset, detector.decisions_.false_alarm_rate)


def write_outputs(
    report: Path | None,
    figure: Path | None,
    title: str,
    path: Path,
    detector: Detector,
    evaluation: Evaluation,
    diagnosis: Diagnosis | None,
) -> dict[str, str]:
    """Write the HTML report and the figure that are requested. Returns their paths, for JSON."""
    files = {}
    if report is not None:
        from oddlens.reporting.evaluation_report import write_evaluation_report

        write_evaluation_report(
            report, title, detector, evaluation, command_line(), detector_path=str(path), diagnosis=diagnosis
        )
        files["report"] = str(report)
    if figure is not None:
        from oddlens.reporting import evaluation_figures
        from oddlens.reporting.figures import save_figure

        save_figure(evaluation_figures.draw_gallery(detector, evaluation, title), figure)
        files["figure"] = str(figure)
    return files


def describe_aurocs(metrics: dict[str, Any]) -> list[str]:
    """The areas under the curves, in lines; without that of the images where there is none."""
    from oddlens.reporting.evaluation_tables import format_auroc

    lines = [] if metrics["image_auroc"] is None else [f"image AUROC {format_auroc(metrics)}"]
    if "pixel_auroc" in metrics:
        lines.append(f"pixel AUROC {metrics['pixel_auroc']:.3f}, AUPRO {metrics['aupro']:.3f}")
    return lines

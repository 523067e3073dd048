"""`oddlens eval`: the metrics table."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oddlens.cli.options import (
    DataArgument,
    DataDirOption,
    DetectorArgument,
    DeviceOption,
    GroupByOption,
    JsonOption,
    NormalOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import command, command_line, drop_unreadable, with_groups
from oddlens.errors import SettingsError

if TYPE_CHECKING:
    from oddlens.detector.detector import Detector
    from oddlens.evaluation.evaluate import Evaluation

ReportOption = Annotated[Path | None, typer.Option("--report", help="Write an HTML report with figures here.")]


def evaluate(
    path: DetectorArgument,
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    group_by: GroupByOption = None,
    report: ReportOption = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Compute metrics on a labelled test set, with intervals."""
    with command(as_json, threads, skips=True) as console:
        from oddlens.data.open import open_dataset
        from oddlens.detector.detector import Detector
        from oddlens.evaluation import evaluate, test_sets
        from oddlens.reporting import evaluation_report

        if report is not None and report.suffix != ".html":
            raise SettingsError(f"{report}: reports end in .html")
        detector = Detector.load(path, device=device, threads=console.threads)
        normal_class = detector.manifest.data.normal
        normal = normal or (normal_class if normal_class not in ("good", "all") else None)
        dataset = open_dataset(data, normal=normal, data_dir=data_dir, progress=console.downloading)
        readable, skipped = drop_unreadable(dataset.test, skip_unreadable, console)
        dataset = replace(dataset, test=with_groups(readable, group_by, detector))
        distort = dataset.normal == "all" and not dataset.test.labels.any()  # every class is normal
        test = test_sets.build_test_set(dataset, detector.spec, seed or 0, distort)
        started = time.perf_counter()
        evaluation = evaluate.evaluate(detector, test, lambda done: console.counting("scoring", len(test), done))
        seconds = {"score": round(time.perf_counter() - started, 3)}
        masks = evaluation.masks.with_unmatched(dataset.unused_masks)
        for line in masks.lines():
            console.say(line)
        result = {
            "detector": str(path), **evaluation.metrics, **masks.as_json, "seconds": seconds, "skipped": skipped,
        }  # fmt: skip
        if evaluation.n_excluded:
            console.say(f"left out {evaluation.n_excluded} test images that the detector was trained on")
        title = f"{path.name} on {dataset.name}"
        if report is not None:
            result["files"] = write_report(report, title, detector, evaluation)
        kinds, decisions = evaluation_report.kinds_table(result), evaluation_report.decisions_table(result)
        console.table(title, kinds.columns, kinds.rows)
        console.table("", decisions.columns, decisions.rows)
        summary = evaluation_report.describe_metrics(result, detector.manifest.model.scores_reconstruction)
        console.result(result, [*describe_aurocs(result), summary])


def write_report(path: Path, title: str, detector: Detector, evaluation: Evaluation) -> dict[str, Any]:
    """Write the HTML report with its figures in a folder beside it. Returns the paths, for JSON."""
    from oddlens.reporting import evaluation_report

    figure_paths = evaluation_report.draw_figures(detector, evaluation, path.with_suffix(""), [])
    evaluation_report.write_evaluation_report(path, title, detector, evaluation, figure_paths, command_line())
    return {"report": str(path), "figures": {name: str(figure) for name, figure in figure_paths.items()}}


def describe_aurocs(metrics: dict[str, Any]) -> list[str]:
    """The areas under the curves, in lines."""
    low, high = metrics["image_auroc_ci"]
    lines = [f"image AUROC {metrics['image_auroc']:.3f} ({low:.3f} to {high:.3f})"]
    if "pixel_auroc" in metrics:
        lines.append(f"pixel AUROC {metrics['pixel_auroc']:.3f}, AUPRO {metrics['aupro']:.3f}")
    return lines

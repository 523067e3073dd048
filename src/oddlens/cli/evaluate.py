"""`oddlens eval`: the metrics table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    DataArgument,
    DataDirOption,
    DeviceOption,
    GroupByOption,
    JsonOption,
    NormalOption,
    PartArgument,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import command, command_line, drop_unreadable, with_groups
from oddlens.errors import SettingsError


def evaluate(
    detector: PartArgument,
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    group_by: GroupByOption = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report with pictures here.")] = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """The metrics table on a labelled test set, with intervals."""
    with command(as_json, threads, skips=True) as terminal:
        from dataclasses import replace

        from oddlens.data.open import open_dataset
        from oddlens.detector.detector import Detector
        from oddlens.evaluation import evaluate, test_sets
        from oddlens.reporting import evaluation_report

        if report is not None and report.suffix != ".html":
            raise SettingsError(f"{report}: reports end in .html")
        part = Detector.load(detector, device=device)
        known = part.manifest.data.normal
        normal = normal or (known if known not in ("good", "all") else None)
        chosen = open_dataset(data, normal=normal, data_dir=data_dir)
        good, skipped = drop_unreadable(chosen.test, skip_unreadable, terminal)
        chosen = replace(chosen, test=with_groups(good, group_by, part))
        distort = chosen.normal == "all" and not chosen.test.labels.any()  # every class is normal
        test = test_sets.labelled_images(chosen, part.spec, seed or 0, distort)
        started = time.perf_counter()
        found = evaluate.evaluate(part, test, lambda done: terminal.counting("scoring", len(test), done))
        result = {
            "detector": str(detector),
            **found.metrics,
            "seconds": {"score": round(time.perf_counter() - started, 3)},
        }
        result["skipped"] = skipped
        if found.left_out:
            terminal.say(f"left out {found.left_out} test images that the detector was trained on")
        if report is not None:
            pictures = evaluation_report.draw_figures(part, found, report.with_suffix(""), [])
            evaluation_report.write_evaluation_report(
                report, f"{detector.name} on {chosen.name}", part, found, pictures, command_line()
            )
            result["files"] = {"report": str(report), "figures": {name: str(path) for name, path in pictures.items()}}
        low, high = result["image_auroc_ci"]
        kinds, decisions = evaluation_report.kinds_table(result), evaluation_report.decisions_table(result)
        terminal.table(f"{detector.name} on {chosen.name}", kinds.columns, kinds.rows)
        terminal.table("", decisions.columns, decisions.rows)
        lines = [f"image AUROC {result['image_auroc']:.3f} ({low:.3f} to {high:.3f})"]
        if "pixel_auroc" in result:
            lines.append(f"pixel AUROC {result['pixel_auroc']:.3f}, AUPRO {result['aupro']:.3f}")
        terminal.result(result, [*lines, evaluation_report.describe_metrics(result, part.manifest.model.family)])

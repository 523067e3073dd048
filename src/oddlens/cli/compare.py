"""`oddlens compare`: a leaderboard of detectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    BudgetOption,
    DataArgument,
    DataDirOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    ReportOption,
    SeedOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import check_report, command, command_line, report_left_out
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output, check_outside_data


def compare(
    data: DataArgument,
    detectors: Annotated[
        str | None, typer.Option("--detectors", help="Detectors to compare, separated by commas; by default all.")
    ] = None,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    budget: BudgetOption = None,
    output: Annotated[Path | None, path_option("-o", "--output", help="Draw the leaderboard here, .png.")] = None,
    report: ReportOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Rank detectors on labelled data, with intervals, seconds and a trivial baseline."""
    with command(as_json, threads) as console:
        from oddlens.config.parse import duration
        from oddlens.data.open import open_dataset
        from oddlens.evaluation import compare as comparison
        from oddlens.reporting import leaderboard

        if output is not None and output.suffix != ".png":
            raise SettingsError(f"{output}: figures end in .png")
        if output is not None:
            check_output(output)
            check_outside_data(output, [data])
        check_report(report, [data])
        dataset = open_dataset(data, normal=normal, data_dir=data_dir, progress=console.downloading)
        left_out = report_left_out(dataset.left_out, console)
        result = comparison.compare(
            dataset,
            None if detectors is None else [name.strip() for name in detectors.split(",")],
            seed=seed or 0,
            budget=None if budget is None else duration(budget),
            device=device,
            progress=console.training if console.err.is_terminal else None,  # elsewhere a line for each detector
            log=console.say,
        )
        result["left_out"] = left_out
        result["seconds"] = {"compare": round(time.perf_counter() - console.started, 3)}
        files = {}
        if output is not None:
            from oddlens.reporting import figures

            files["figure"] = str(figures.save_figure(leaderboard.draw_leaderboard(result), output))
        if report is not None:
            from oddlens.reporting import comparison_report

            files["report"] = str(comparison_report.write_comparison_report(report, result, command_line()))
        if files:
            result["files"] = files
        table = leaderboard.leaderboard_table(result)
        console.table(f"{result['data']}, normal: {result['normal']}", table.columns, table.rows)
        console.result(result, result["notes"])

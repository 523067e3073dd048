"""`oddlens run`: whole recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    DataDirOption,
    DetectorOption,
    DeviceOption,
    EpochsOption,
    JsonOption,
    ReportOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import check_report, command, command_line

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="mnist, cifar10-airplane, digits, or a .toml file.")
]


def run(
    recipe: RecipeArgument,
    data: DataDirOption = None,
    out: Annotated[Path | None, path_option("--out", help="Output folder; by default runs/RECIPE.")] = None,
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    detector: DetectorOption = None,
    report: ReportOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Run a whole recipe: fit, calibrate, evaluate, figures, report."""
    with command(as_json, threads) as console:
        from oddlens.recipes.run import RecipeRun, find_recipe, override
        from oddlens.reporting import evaluation_tables

        settings = override(find_recipe(recipe), epochs=epochs, seed=seed, detector=detector)
        check_report(report, [settings.data.source])
        recipe_run = RecipeRun(
            settings,
            out or Path("runs") / settings.name,
            data,
            device,
            command=command_line(),
            progress=console.training,
            download_progress=console.downloading,
            log=console.say,
            report=report,
        )
        console.can_resume = lambda: any(recipe_run.out.glob("checkpoints/**/epoch-*.safetensors"))
        result = recipe_run(resume)
        kinds, decisions = evaluation_tables.kinds_table(result), evaluation_tables.decisions_table(result)
        console.table(settings.title or settings.name, kinds.columns, kinds.rows)
        console.table("", decisions.columns, decisions.rows)
        summary = evaluation_tables.describe_metrics(result, settings.model.scores_reconstruction)
        console.result(result, [summary, f"report: {result['files']['report']}"])

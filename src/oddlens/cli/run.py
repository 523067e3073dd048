"""`oddlens run` and `oddlens demo`: whole recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    DataDirOption,
    DetectorOption,
    Device,
    DeviceOption,
    EpochsOption,
    JsonOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import command, command_line

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="mnist, cifar10-airplane, demo, or a .toml file.")
]


def demo(
    out: Annotated[Path, path_option("--out", help="Output folder.")] = Path("runs/demo"),
    as_json: JsonOption = False,
    threads: ThreadsOption = 1,  # the images are so small that several threads would wait for each other
    seed: SeedOption = None,
) -> None:
    """The main task on real handwritten digits, offline, in a minute."""
    run_recipe("demo", out=out, as_json=as_json, threads=threads, seed=seed)


def run(
    recipe: RecipeArgument,
    data: DataDirOption = None,
    out: Annotated[Path | None, path_option("--out", help="Output folder; by default runs/RECIPE.")] = None,
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    detector: DetectorOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Run a whole recipe: fit, calibrate, evaluate, figures, report."""
    run_recipe(
        recipe, data=data, out=out, epochs=epochs, device=device, detector=detector, resume=resume,
        as_json=as_json, threads=threads, seed=seed,
    )  # fmt: skip


def run_recipe(
    name: str, *, as_json: bool, threads: int | None, seed: int | None, out: Path | None, data: Path | None = None,
    epochs: int | None = None, device: Device = "auto", detector: str | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """Run a recipe, for `demo` and `run`."""
    with command(as_json, threads) as console:
        from oddlens.recipes.run import RecipeRun, find_recipe, override
        from oddlens.reporting import evaluation_report

        recipe = override(find_recipe(name), epochs=epochs, seed=seed, detector=detector)
        recipe_run = RecipeRun(
            recipe,
            out or Path("runs") / recipe.name,
            data,
            device,
            command=command_line(),
            progress=console.training,
            download_progress=console.downloading,
            log=console.say,
        )
        console.can_resume = lambda: any(recipe_run.out.glob("checkpoints/**/epoch-*.safetensors"))
        result = recipe_run(resume)
        kinds, decisions = evaluation_report.kinds_table(result), evaluation_report.decisions_table(result)
        console.table(recipe.title or recipe.name, kinds.columns, kinds.rows)
        console.table("", decisions.columns, decisions.rows)
        summary = evaluation_report.describe_metrics(result, recipe.model.scores_reconstruction)
        console.result(result, [summary, f"report: {result['files']['report']}"])

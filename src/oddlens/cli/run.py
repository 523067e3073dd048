"""`oddlens run` and `oddlens demo`: whole recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    DataDirOption,
    DetectorOption,
    Device,
    DeviceOption,
    JsonOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command, command_line

if TYPE_CHECKING:
    pass


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for what is made.")] = Path("runs/demo"),
    as_json: JsonOption = False,
    threads: ThreadsOption = 1,  # the pictures are so small that more threads would wait for each other
    seed: SeedOption = None,
) -> None:
    """The main job on real handwritten digits, offline, in a minute."""
    run_recipe("demo", out=out, as_json=as_json, threads=threads, seed=seed)


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="mnist, cifar10-airplane, demo, or a .toml file.")],
    data: DataDirOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for what is made; runs/RECIPE without it.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Train for so many epochs instead.")] = None,
    device: DeviceOption = "auto",
    detector: DetectorOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """A whole recipe: fit, calibrate, evaluate, pictures, report."""
    run_recipe(
        recipe, data=data, out=out, epochs=epochs, device=device, detector=detector, resume=resume,
        as_json=as_json, threads=threads, seed=seed,
    )  # fmt: skip


def run_recipe(
    name: str, *, as_json: bool, threads: int | None, seed: int | None, out: Path | None, data: Path | None = None,
    epochs: int | None = None, device: Device = "auto", detector: str | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """What `demo` and `run` share."""
    with command(as_json, threads) as terminal:
        from oddlens.recipes import run
        from oddlens.reporting import evaluation_report

        recipe = run.override(run.find_recipe(name), epochs=epochs, seed=seed, detector=detector)
        folder = out or Path("runs") / recipe.name
        work = run.RecipeRun(recipe, folder, data, device, terminal.training, terminal.say, command_line())
        result = work(resume)
        title = recipe.title or recipe.name
        kinds, decisions = evaluation_report.kinds_table(result), evaluation_report.decisions_table(result)
        terminal.table(title, kinds.columns, kinds.rows)
        terminal.table("", decisions.columns, decisions.rows)
        lines = [
            evaluation_report.describe_metrics(result, recipe.model.family),
            f"report: {result['files']['report']}",
        ]
        terminal.result(result, lines)

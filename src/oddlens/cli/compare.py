"""`oddlens compare`: a leaderboard of detectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    BudgetOption,
    DataArgument,
    DataDirOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command
from oddlens.errors import SettingsError

if TYPE_CHECKING:
    pass


def compare(
    data: DataArgument,
    detectors: Annotated[str, typer.Option("--detectors", help="Detectors to compare, with commas between.")],
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    budget: BudgetOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Draw the leaderboard here, .png.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """A leaderboard of detectors on labelled data, with intervals, seconds and a trivial baseline."""
    with command(as_json, threads) as terminal:
        from oddlens.config.parse import duration
        from oddlens.data.open import open_dataset
        from oddlens.evaluation import compare as comparing
        from oddlens.reporting import leaderboard

        if output is not None and output.suffix != ".png":
            raise SettingsError(f"{output}: pictures end in .png")
        result = comparing.compare(
            open_dataset(data, normal=normal, data_dir=data_dir),
            [name.strip() for name in detectors.split(",")],
            seed=seed or 0,
            budget=None if budget is None else duration(budget),
            device=device,
            progress=terminal.training if terminal.err.is_terminal else None,  # else a line a detector is enough
            say=terminal.say,
        )
        result["seconds"] = {"compare": round(time.perf_counter() - terminal.started, 3)}
        if output is not None:
            from oddlens.reporting import figures

            result["files"] = {"figure": str(figures.save_figure(leaderboard.leaderboard(result), output))}
        board = leaderboard.table(result)
        terminal.table(f"{result['data']}, normal: {result['normal']}", board.columns, board.rows)
        terminal.result(result, result["notes"])

"""Commands that look at data and detectors: check, eval, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    DataArgument,
    DataDirOption,
    JsonOption,
    NormalOption,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command, command_line
from oddlens.errors import SettingsError


def check(
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    false_alarm_rate: Annotated[
        float, typer.Option("--false-alarm-rate", help="The rate that the images should be enough for.")
    ] = 0.01,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Time to learn what is unusual among the normals: 5m, 0 for none; up to 2m without it."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures here.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """The data doctor: what is wrong with this data before you train."""
    with command(as_json, threads) as terminal:
        from oddlens.config.parse import duration
        from oddlens.data.open import open_dataset
        from oddlens.evaluation import contamination, data_checks

        if html is not None and html.suffix != ".html":
            raise SettingsError(f"{html}: pages end in .html")
        known = open_dataset(data, normal=normal, data_dir=data_dir)
        learning = contamination.default_budget(len(known.train))
        if budget is not None:
            learning = 0.0 if budget == "0" else duration(budget)
        diagnosis = data_checks.check(
            known, false_alarm_rate, budget=learning, seed=seed or 0, progress=terminal.training
        )
        facts = diagnosis.facts
        lines = [
            f"{facts['n_train']} normal images to learn from ({facts['normal']}), sizes: "
            + ", ".join(f"{size['width']}x{size['height']} ({size['n']})" for size in facts["sizes"][:3])
            + (", …" if facts["n_sizes"] > 3 else ""),
            "test images: " + (", ".join(f"{kind} {n}" for kind, n in facts["n_test"].items()) or "none"),
        ]
        for finding in diagnosis.findings:
            lines.append(f"{finding.level}: {finding.text}")
            lines += [f"    {name}" for name in finding.files[: data_checks.MAX_LISTED_FILES]]
            lines += [f"    … and {len(finding.files) - data_checks.MAX_LISTED_FILES} more"] * (
                len(finding.files) > data_checks.MAX_LISTED_FILES
            )
        lines += ["nothing wrong found"] if not diagnosis.findings else []
        result = diagnosis.as_json
        if html is not None:
            from oddlens.reporting import data_report

            result["files"] = {"page": str(data_report.write_data_report(html, diagnosis, command_line()))}
            lines.append(f"page: {html}")
        terminal.result(result, lines)

"""`oddlens check`: what is wrong with a data set before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    DataArgument,
    DataDirOption,
    JsonOption,
    NormalOption,
    SeedOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import command, command_line
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output, check_outside_data

if TYPE_CHECKING:
    from oddlens.evaluation.diagnosis import Diagnosis

CheckedRateOption = Annotated[
    float, typer.Option("--false-alarm-rate", help="Rate for which the number of images should suffice.")
]
CheckBudgetOption = Annotated[
    str | None,
    typer.Option("--budget", help="Time to search for unusual images: 5m, 0 for none; by default up to 2 minutes."),
]


def check(
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    false_alarm_rate: CheckedRateOption = 0.01,
    budget: CheckBudgetOption = None,
    html: Annotated[Path | None, path_option("--html", help="Write the findings as a page, .html.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Check a data set for problems before you train on it."""
    with command(as_json, threads) as console:
        from oddlens.config.parse import duration
        from oddlens.data.open import open_dataset
        from oddlens.evaluation import contamination

        if html is not None and html.suffix != ".html":
            raise SettingsError(f"{html}: pages end in .html")
        if html is not None:
            check_output(html)
            check_outside_data(html, [data])
        dataset = open_dataset(data, normal=normal, data_dir=data_dir, progress=console.downloading)
        seconds = contamination.default_budget(len(dataset.train))
        if budget is not None:
            seconds = 0.0 if budget == "0" else duration(budget)
        from oddlens.evaluation import data_checks  # not before it is sure that training is installed

        diagnosis = data_checks.check(
            dataset, false_alarm_rate, budget=seconds, seed=seed or 0, progress=console.training
        )
        result, lines = diagnosis.as_json, describe_diagnosis(diagnosis)
        if html is not None:
            from oddlens.reporting import data_report

            result["files"] = {"page": str(data_report.write_data_report(html, diagnosis, command_line()))}
            lines.append(f"page: {html}")
        console.result(result, lines)


def describe_diagnosis(diagnosis: Diagnosis) -> list[str]:
    """The facts and findings about a data set, in lines."""
    from oddlens.evaluation.data_checks import MAX_LISTED_FILES

    facts = diagnosis.facts
    lines = [
        f"{facts['n_train']} normal training images ({facts['normal']}), sizes: "
        + ", ".join(f"{size['width']}x{size['height']} ({size['n']})" for size in facts["sizes"][:3])
        + (", …" if facts["n_sizes"] > 3 else ""),
        "test images: " + (", ".join(f"{kind} {n}" for kind, n in facts["n_test"].items()) or "none"),
    ]
    for finding in diagnosis.findings:
        lines.append(f"{finding.level}: {finding.text}")
        reasons = [f" ({reason})" for reason in finding.reasons] or [""] * len(finding.files)
        listed = zip(finding.files[:MAX_LISTED_FILES], reasons, strict=False)
        lines += [f"    {name}{reason}" for name, reason in listed]
        if len(finding.files) > MAX_LISTED_FILES:
            lines.append(f"    … and {len(finding.files) - MAX_LISTED_FILES} more")
    return lines if diagnosis.findings else [*lines, "no problems found"]

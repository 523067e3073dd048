"""Synthetic cells for the tests of the benchmark scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cells as c

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def cell(commands: tuple[str, ...] = (), *results: dict[str, Any], code: str | None = None) -> c.Cell:
    """A cell of these commands and results, made by today's code unless `code` is another digest."""
    return c.Cell(
        commands=commands, results=results, wall=(2.0,) * len(results), commit="abc1234",
        code=code or c.code_digest(), machine="a machine", load=0.1, versions={"python": "3.11"},
        made="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


def put(folder: Path, job: c.Job, *results: dict[str, Any], code: str | None = None) -> None:
    """Write a cell as if the job's commands had run."""
    path = c.Cells(folder).path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(cell(job.commands, *results, code=code).model_dump_json())


def eval_result(auroc: float, **more: Any) -> dict[str, Any]:
    """The JSON of `oddlens eval`."""
    return {
        "image_auroc": auroc, "image_auroc_ci": [auroc - 0.01, auroc + 0.01], "false_alarm_rate": 0.01,
        "false_alarm_rate_measured": 0.008, "detection_rate": 0.5, "per_class": {}, **more,
    }  # fmt: skip


def table_rows(text: str) -> dict[str, list[str]]:
    """The rows of Markdown tables, by their first column."""
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}

"""Made-up cells for the tests of the benchmark scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cells as c

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def put(folder: Path, made: c.Job, *results: dict[str, Any], code: str | None = None) -> None:
    """A cell as if its commands had run."""
    cell = c.Cell(
        commands=made.commands, results=results, wall=(2.0,) * len(results), commit="abc1234",
        code=code or c.code_digest(), machine="a machine", load=0.1, versions={"python": "3.11"},
        made="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    c.Cells(folder).path(made).parent.mkdir(parents=True, exist_ok=True)
    c.Cells(folder).path(made).write_text(cell.model_dump_json())

"""Tests of the code digest: renaming or moving code leaves it unchanged, another computation changes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import benchmark_cells
import code_digest
import pytest

SCORES = '''"""Scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from oddlens import settings
from oddlens.errors import CalibrationError
from oddlens.settings import LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["mean_score"]


class Scorer:
    """Scores images."""

    scale: float = 2.0
    offset: float

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def score(self, values: Sequence[float]) -> float:
        """The score of values."""
        if not values:
            raise CalibrationError(f"no values for {self.scale}", "give some")
        return self.scale * mean_score(values, weight=settings.LIMIT) - self.offset


def mean_score(values: Sequence[float], weight: float = 1.0) -> float:
    """The mean."""
    total = np.mean(values) + LIMIT
    return math.sqrt(total) if total.max() > weight else round(total, 3)
'''
SETTINGS = '"""Settings."""\n\nLIMIT = 3.0\nMODULE = "oddlens.scores"\n'
RECIPE = "epochs = 10\n"
KERNEL = "int tile(void) { return 12; }\n"


def digest(folder: Path, scores: str = SCORES, settings: str = SETTINGS, **files: str) -> str:
    """The digest of a small package."""
    root = folder / f"{len(list(folder.iterdir()))}" / "oddlens"
    contents = {
        "__init__.py": "", "scores.py": scores, "settings.py": settings, "demo.toml": RECIPE, "network.c": KERNEL,
    } | {name.replace("__", "."): text for name, text in files.items()}  # fmt: skip
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code_digest.package_digest(root)


def renamed(text: str, **names: str) -> str:
    for before, after in names.items():
        assert re.search(rf"\b{before}\b", text)
        text = re.sub(rf"\b{before}\b", after, text)
    return text


def replaced(text: str, before: str, after: str) -> str:
    assert before in text
    return text.replace(before, after)


@pytest.mark.parametrize(
    "names",
    [
        {"mean_score": "weighted_mean"}, {"Scorer": "Model"}, {"LIMIT": "MAX_SCORE"}, {"total": "sum_"},
        {"values": "scores"}, {"offset": "shift"}, {"scale": "factor"}, {"score": "predict"}, {"weight": "bound"},
        {"settings": "config"}, {"np": "numpy"}, {"CalibrationError": "FitError"},
    ],
    ids=lambda names: next(iter(names)),
)  # fmt: skip
def test_renaming_leaves_the_digest_unchanged(names: dict[str, str], tmp_path: Path) -> None:
    after = replaced(renamed(SCORES, **names), "import numpy as numpy", "import numpy") if "np" in names else None
    after = after or renamed(SCORES, **names)
    settings = SETTINGS.replace("LIMIT", names.get("LIMIT", "LIMIT"))
    if "settings" in names:
        config = digest(tmp_path, after, "", config__py=settings)
        assert config == digest(tmp_path)
    else:
        assert digest(tmp_path, after, settings) == digest(tmp_path)


def test_moving_a_definition_to_another_file_leaves_the_digest_unchanged(tmp_path: Path) -> None:
    start = SCORES.index("def mean_score")
    moved = "import math\n\nimport numpy as numpy_\n\nfrom oddlens.settings import LIMIT\n\n\n" + SCORES[start:]
    moved = replaced(moved, "np.mean", "numpy_.mean")
    rest = "from oddlens.means import mean_score\n" + SCORES[:start]
    assert digest(tmp_path, rest.replace("from __future__ import annotations\n", ""), means__py=moved) == (
        digest(tmp_path)
    )


def test_moving_a_whole_file_leaves_the_digest_unchanged(tmp_path: Path) -> None:
    inner = {"conformal/scores__py": SCORES, "conformal/__init____py": ""}
    moved = {"kernels/network__c": KERNEL, "recipes/demo__toml": RECIPE, "demo__toml": "", "network__c": ""}
    settings = replaced(SETTINGS, "oddlens.scores", "oddlens.conformal.scores")
    plain = digest(tmp_path, empty__c="", empty__toml="")
    assert digest(tmp_path, "", settings, **inner, **moved) == plain


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""The mean."""', '"""Weighted mean of the scores."""'),
        ('"""Scores."""', '"""Anomaly scores."""'),
        ("no values for {self.scale}", "there are no values to score"),
        ('"give some"', '"give at least one"'),
        ("values: Sequence[float], weight", "values: list[float], weight"),
        ("total = np", "total: float = np"),
        ('["mean_score"]', '["Scorer", "mean_score"]'),
        ("settings.LIMIT", "LIMIT"),
    ],
)
def test_texts_and_annotations_do_not_count(before: str, after: str, tmp_path: Path) -> None:
    assert digest(tmp_path, replaced(SCORES, before, after)) == digest(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scale: float = 2.0", "scale: float = 2.5"),
        ("np.mean(values) + LIMIT", "np.mean(values) - LIMIT"),
        ("np.mean", "np.median"),
        ("math.sqrt", "math.exp"),
        ("round(total, 3)", "abs(total, 3)"),
        ("total.max()", "total.min()"),
        ("> weight", ">= weight"),
        ("> weight", "> total"),
        ("not values", "values"),
        ("mean_score(values, weight=settings.LIMIT)", "mean_score(values)"),
        ("        self.offset = offset\n", "        self.offset = offset\n        self.scale = offset\n"),
    ],
)
def test_another_computation_changes_the_digest(before: str, after: str, tmp_path: Path) -> None:
    assert digest(tmp_path, replaced(SCORES, before, after)) != digest(tmp_path)


def test_a_constant_a_line_of_c_and_a_recipe_change_the_digest(tmp_path: Path) -> None:
    digests = {
        digest(tmp_path),
        digest(tmp_path, settings=SETTINGS.replace("3.0", "4.0")),
        digest(tmp_path, network__c=KERNEL.replace("12", "8")),
        digest(tmp_path, demo__toml=RECIPE.replace("10", "20")),
    }
    assert len(digests) == 4


def test_a_copy_of_a_definition_counts(tmp_path: Path) -> None:
    assert digest(tmp_path, copy__py=SETTINGS) != digest(tmp_path)


def test_a_cell_made_before_an_equivalent_restructuring_has_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_digest, "EQUIVALENT", {"before": code_digest.code_digest(), "long ago": "other"})
    marks = {code: benchmark_cells.cell(code=code).mark for code in ("before", "long ago", "unknown", None)}
    assert marks == {"before": "", "long ago": " †", "unknown": " †", None: ""}


def test_the_digest_before_the_move_is_listed_as_equivalent() -> None:
    assert code_digest.EQUIVALENT["755970e02330637a"] == code_digest.AFTER_THE_MOVE
    assert re.fullmatch("[0-9a-f]{16}", code_digest.AFTER_THE_MOVE)


def test_the_script_prints_the_digest() -> None:
    command = [sys.executable, str(benchmark_cells.BENCHMARKS / "code_digest.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch("[0-9a-f]{16}\n", done.stdout)

"""Tests of the benchmark of the data doctor."""

from __future__ import annotations

import argparse
from typing import Any

import doctoring
import numpy as np
import pytest

from oddlens.data.image_set import ImageSet
from oddlens.evaluation import data_checks


@pytest.mark.parametrize("words", [["--show", "contamination"], ["--show", "leaks", "--data", "/data"]])
def test_missing_options_are_errors(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ODDLENS_DATA", raising=False)
    with pytest.raises(SystemExit):
        doctoring.main(words)
    assert "--data is required, and --groups with --show leaks" in capsys.readouterr().err


def test_contamination_counts_the_listed_foreign_images(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = np.array(["automobile"] * 100 + ["ship"] * 50)
    pixels = np.arange(150, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), dtype=np.uint8)
    images = ImageSet.from_array(pixels, kind=list(kinds))

    def check(data: Any, **options: Any) -> Any:
        assert len(data.train) == 103  # 3% of 100
        return argparse.Namespace(facts={"unusual": [{"file": name} for name in data.train.names[99:102]]})

    monkeypatch.setattr(data_checks, "check", check)
    result = doctoring.contaminated(images, kinds, "ship", argparse.Namespace(seed=0, budget="1s"))
    assert (result["listed"], result["foreign"]) == (2, 3)

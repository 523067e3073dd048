"""Tests of the industrial tables."""

from __future__ import annotations

from pathlib import Path

import cells as c
import industrial
import pytest
from benchmark_cells import baseline_result, eval_result, put, table_rows


def test_industrial_table_shows_pixel_metrics_baselines_and_the_leak_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "$DATA/magnetic-tile"
    kinds = {
        "good": {"auroc": None, "detection_rate": 0.0, "n": 9},
        "crack": {"auroc": 0.95, "detection_rate": 0.3, "n": 7},
    }
    ours = eval_result(0.9, pixel_auroc=0.85, aupro=0.7, per_class=kinds)
    put(tmp_path, c.fit_and_eval(source, None, "auto", 0, budget="15m"), {"seconds": {"fit": 800.0}}, ours)
    put(tmp_path, c.thumbnails(source), baseline_result(0.68, 0.66, crack=0.6))
    assert industrial.main(["--set", "magnetic-tile", "--print", "--cache", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    table = table_rows(text)
    assert table["**auto**"] == ["0.900", "0.890 to 0.910", "0.850", "0.700", "0.8% (1.0%)", "50.0%", "800.0"]
    assert table["nearest thumbnail, 8 normalised"][0] == "0.680"
    assert table["crack"] == ["7", "0.950", "30.0%", "–", *["0.600 / 0.600"] * 2]
    assert (
        list(table).index("1-NN on features") < list(table).index("**oddlens, auto**") < list(table).index("DifferNet")
    )
    assert table["PatchCore"] == ["97.9", "pretrained elsewhere"]
    assert "probably come from leaking random splits" in text

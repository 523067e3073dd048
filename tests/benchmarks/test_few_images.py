"""Tests of the benchmark of few normal images."""

from __future__ import annotations

from pathlib import Path

import few_images
import pytest


def test_each_draw_is_computed_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[int, int]] = []

    def results(source: str, count: int, draw: int) -> dict[str, float | None]:
        calls.append((count, draw))
        return {"auroc": 0.9 + draw / 100, "rate": None if count == 10 else 0.1, "caught": 0.5, "alarms": 0.0}

    monkeypatch.setattr(few_images, "results_of_draw", results)
    (tmp_path / "bottle").mkdir()
    words = ["--set", "bottle", "--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert few_images.main(words) == few_images.main(words) == 0
    assert calls == [(count, draw) for count in few_images.COUNTS for draw in range(few_images.DRAWS)]
    printed = capsys.readouterr().out
    assert "| bottle, 10 | 0.900, 0.910, 0.920 | –, –, – | 50.0%, 50.0%, 50.0% |" in printed
    assert "| bottle, 20 | 0.900, 0.910, 0.920 | 10.0%, 10.0%, 10.0% |" in printed

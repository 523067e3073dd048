"""Tests of the simulation of each scheme of calibration; the rates themselves are tested with the schemes."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_promises


def test_rare_parts_are_photographed_once_and_usual_ones_several_times(rng: np.random.Generator) -> None:
    drawn = simulated_promises.photographs(rng, 200)
    assert set(np.bincount(drawn.parts)) == {1, simulated_promises.N_PHOTOGRAPHS}
    spread = [np.ptp(drawn.points[drawn.parts == part], axis=0).max() for part in range(200)]
    assert max(spread) < 10 * simulated_promises.SPREAD


def test_the_table_has_a_row_for_each_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated_promises.main(["--repeats", "2"]) == 0
    table = capsys.readouterr().out
    assert all(f"| {scheme} |" in table for scheme in simulated_promises.SCHEMES)
    assert "5.0% guaranteed" in table

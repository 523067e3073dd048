"""Detectors, detector files and metrics are what they were when they were recorded (`tests/compatibility`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "compatibility"
TOLERANCE = {  # relative, on another processor or another PyTorch; on the same, scores are bitwise the same
    "scores": 0.2,  # training a few steps in another precision
    "files": 1e-3,
    "eval": 0.02,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What was recorded."""
    values: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
    return values


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this code gives, in a process of its own with one thread."""
    output = tmp_path_factory.mktemp("compatibility") / "computed.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, FOLDER / "record.py", output], env=environment, check=True)
    values: dict[str, Any] = json.loads(output.read_text())
    return values


@pytest.mark.parametrize("part", ["scores", "files", "eval"])
def test_everything_is_as_it_was_recorded(part: str, expected: dict[str, Any], computed: dict[str, Any]) -> None:
    before, now = dict(leaves(expected[part])), dict(leaves(computed[part]))
    assert before.keys() == now.keys()
    same_machine = expected["machine"] == computed["machine"]
    for place, value in before.items():
        if isinstance(value, float) and not same_machine:
            assert np.isclose(value, now[place], rtol=TOLERANCE[part], atol=TOLERANCE[part]), place
        elif isinstance(value, float) or same_machine:
            assert value == now[place], place


def test_the_recorded_detectors_tell_images_apart(expected: dict[str, Any]) -> None:
    for name, scores in (expected["scores"] | expected["files"]).items():
        assert len(set(scores)) == len(scores), name
    assert expected["eval"]["tiles"]["image_auroc"] > 0.9


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text in a JSON value, with its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, f"{place}/{key}")
    if not isinstance(value, dict | list):
        yield place, value

"""`oddlens show`: what a detector is, and what it guarantees."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import oddlens, run_json


def test_the_guarantee_and_the_manifest_are_shown(part: Path) -> None:
    assert "normal images are flagged" in oddlens("show", part).stdout
    shown = run_json("show", part)
    assert shown["manifest"]["schema_version"] == 1
    assert shown["manifest"]["input"] == {"height": 20, "width": 24, "channels": 1, "value_max": 255}


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_both_kinds_of_file_are_shown_as_a_table(kind: str, request: pytest.FixtureRequest) -> None:
    shown = oddlens("show", request.getfixturevalue(kind)).stdout
    for text in ("family", "autoencoder", "8 x 8, grey, 0 to 255", "runs with", "calibrated on", "conformal"):
        assert text in shown

"""`oddlens show`: what a detector is, and what it guarantees."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import QUICK, error_of, oddlens, run_json
from pretrained_extra import needs_pretrained

from oddlens.models.backbones import efficientnet_lite


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


def test_tiles_are_said_in_fitting_and_shown_and_again_in_a_plan(parts: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "part.safetensors", tmp_path / "again.safetensors"
    fitted = run_json("fit", parts, "-o", file, "--budget", "2s", "--tile", 16)
    assert fitted["tiling"] == {"height": 16, "width": 16, "overlap": 4}
    assert fitted["remarks"][0].startswith("tiles: images of 24 x 20 pixels are scored in tiles, 4 of 16 x 16")
    assert "4 of 16 x 16 that overlap by 4 pixels or more" in oddlens("show", file).stdout
    assert run_json("fit", parts, "-o", again, "--plan", file)["tiling"] == fitted["tiling"]
    assert run_json("fit", parts, "-o", again, *QUICK, "--epochs", 1)["tiling"] is None  # small images, "auto"


@pytest.mark.parametrize("tile", ["0", "-5", "big", "9999"])
def test_a_tile_that_is_no_side_is_refused(tile: str, parts: Path, tmp_path: Path) -> None:
    message = error_of("fit", parts, "-o", tmp_path / "part.safetensors", "--tile", tile)
    assert "tile: must be 'auto', 'off' or a side from 16 to 4096 pixels, got" in message


@needs_pretrained
def test_pretrained_weights_are_named_with_their_source_and_licence(parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    run_json("fit", parts, "-o", file, "--detector", "features")
    shown = oddlens("show", file).stdout
    assert "contains" in shown
    assert "efficientnet-lite0" in shown
    assert "WITHOUT WARRANTIES" not in shown
    assert efficientnet_lite.EFFICIENTNET_LITE0.sha256 in (full := oddlens("show", file, "--notices").stdout)
    assert "WITHOUT WARRANTIES" in full
    (notice,) = run_json("show", file)["manifest"]["notices"]
    assert "Copyright (c) 2020, ML Illustrated" in notice["text"]

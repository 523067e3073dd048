"""Detector files: safe to load, complete or refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_files import read_manifest_values, write_changed
from safetensors.numpy import save as save_tensors

from oddlens.artifact import detector_file
from oddlens.config.base import InputSpec
from oddlens.config.detectors import (
    AutoencoderSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, OddlensError, SettingsError
from oddlens.models import registry

DIGITS = Path(__file__).parent.parent / "compatibility" / "digits.safetensors"


def test_a_file_that_is_cut_at_any_of_100_positions_is_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for place in np.linspace(0, len(content) - 1, 100).astype(int):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(content[:place])
        with pytest.raises(ArtifactError, match=r"cut\.safetensors: "):
            Detector.load(cut)


def test_a_flipped_bit_anywhere_is_refused(saved: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    content = saved.read_bytes()
    for place in rng.integers(8, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        flipped = tmp_path / "flipped.safetensors"
        flipped.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="flipped"):
            Detector.load(flipped)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), b"\xff" * 64, b"[1, 2, 3]" * 9]
)
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not an oddlens detector"):
        Detector.load(path)


def test_a_safetensors_file_without_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(save_tensors({"weights": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(ArtifactError, match="no oddlens manifest"):
        Detector.load(path)


def grow(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    manifest["model"]["widths"] = [1024] * 6


def rename(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    tensors["model.encoder.9.weight"] = tensors.pop("model.encoder.0.weight")


def retype(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    tensors["model.encoder.0.weight"] = tensors["model.encoder.0.weight"].astype(np.float64)


def lose_calibration(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    del tensors["calibration.scores"]


def poison(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    tensors["model.encoder.0.weight"].flat[0] = np.nan


def other_weights(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
    tensors["model.encoder.0.weight"] = -tensors["model.encoder.0.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (grow, "not one of this family's"),
        (rename, "not one of this family's"),
        (retype, "not one of this family's"),
        (lose_calibration, "lacks 1 tensors of this family"),
        (poison, "not finite"),
        (other_weights, "built-in test images"),
    ],
)
def test_changed_tensors_are_refused_although_the_digest_matches(
    saved: Path, tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    path = write_changed(saved, tmp_path / "changed.safetensors", change, matching_digest=True)
    with pytest.raises(ArtifactError, match=message):
        Detector.load(path)


@pytest.fixture(scope="module")
def with_bank(digit_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector = Detector(DictionarySettings(atoms=4, bank_megabytes=0.02)).fit(digit_pixels[:60])
    return detector.save(tmp_path_factory.mktemp("bank") / "part.safetensors")


@pytest.mark.parametrize("bank", ["pictures", "light", "places"])
@pytest.mark.parametrize("count", [0, 1_000_000])
def test_a_bank_with_no_row_or_too_many_is_refused(with_bank: Path, tmp_path: Path, bank: str, count: int) -> None:
    name = f"model.{bank}.rows"

    def change(manifest: dict[str, Any], tensors: detector_file.Tensors) -> None:
        tensors[name] = np.zeros((count, tensors[name].shape[1]), dtype=np.float32)

    path = write_changed(with_bank, tmp_path / "changed.safetensors", change, matching_digest=True)
    with pytest.raises(ArtifactError, match=rf"'{name}' \(F32 \({count}, .* it may be F32 \(1 to \d+, "):
        Detector.load(path)


def test_a_bank_may_have_as_many_rows_as_its_settings_allow_and_no_more() -> None:
    settings = RotationSettings(widths=(4, 4, 8), bank=30)
    plan = EnsembleSettings(members=(Member(model=AutoencoderSettings()), Member(model=settings)))
    spec = InputSpec(height=16, width=16, channels=1)
    for shape in (registry.tensor_shapes(settings, spec)["bank"], registry.tensor_shapes(plan, spec)["members.1.bank"]):
        allowed = [rows for rows in range(40) if detector_file.shape_fits((rows, 4, 8), shape)]
        assert allowed == list(range(1, 31))
        assert not detector_file.shape_fits((30, 4, 9), shape)
        assert not detector_file.shape_fits((30, 4), shape)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 2, "schema version 2"),
        ("schema_version", None, "schema version None"),
        ("model", {"family": "os.system"}, "'os.system' is not a detector"),
        ("input", {"height": 10**9, "width": 8, "channels": 1, "value_max": 255}, "input.height"),
        ("surprise", 1, "'surprise' is not a setting"),
        ("created", "yesterday", "digest differs"),
    ],
)
def test_a_changed_manifest_is_refused(saved: Path, tmp_path: Path, key: str, value: object, message: str) -> None:
    path = write_changed(
        saved, tmp_path / "changed.safetensors", lambda m, _: m.update({key: value}), matching_digest=False
    )
    with pytest.raises(ArtifactError, match=message):
        Detector.load(path)


def test_a_file_with_the_older_name_of_the_rotation_family_loads_and_saves_unchanged(tmp_path: Path) -> None:
    loaded = Detector.load(DIGITS)
    assert isinstance(loaded.manifest.model, EnsembleSettings)
    assert "transforms" in [member.model.family for member in loaded.manifest.model.members]
    again = loaded.save(tmp_path / "again.safetensors")
    older, newer = (
        [member["model"] for member in read_manifest_values(path)["model"]["members"]] for path in (DIGITS, again)
    )
    for before, now in zip(older, newer, strict=True):
        assert {name: value for name, value in now.items() if name in before} == before
    new_since = [
        {name: now[name] for name in now if name not in before} for before, now in zip(older, newer, strict=True)
    ]
    assert new_since == [{}, {"scored_rotations": 4}]
    manifest = Detector.load(again).manifest  # with settings that are new since, so its digest is another
    assert manifest.model_copy(update={"digest": loaded.manifest.digest}) == loaded.manifest


def test_both_names_of_the_rotation_family_give_the_same_tensors_and_stay_in_the_file(
    digit_pixels: Pixels, tmp_path: Path
) -> None:
    tensors = {}
    for name in ("rotation", "transforms"):
        settings = RotationSettings.model_validate({"family": name, "side": 16, "widths": (4, 4, 8), "bank": 30})
        path = Detector(settings).fit(digit_pixels[:80]).save(tmp_path / f"{name}.safetensors")
        assert read_manifest_values(path)["model"]["family"] == name
        loaded = Detector.load(path)
        assert loaded.manifest.model == settings
        tensors[name] = loaded.tensors
    for key, tensor in tensors["rotation"].items():
        np.testing.assert_array_equal(tensor, tensors["transforms"][key], err_msg=key)


def test_no_image_is_in_the_file(digits_detector: Detector) -> None:
    assert set(detector_file.STATISTICS_DTYPES) <= set(digits_detector.tensors)
    for name, tensor in digits_detector.tensors.items():
        assert name.startswith("model.") or (name in detector_file.STATISTICS_DTYPES and tensor.ndim == 1), name


def test_saving_twice_gives_the_same_bytes(saved: Path, digits_detector: Detector, tmp_path: Path) -> None:
    assert digits_detector.save(tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_another_suffix_than_safetensors_is_refused_before_writing(digits_detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"end in \.safetensors"):
        digits_detector.save(tmp_path / "part.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file_unchanged(saved: Path, tmp_path: Path) -> None:
    """A limit of the file size makes the system fail half-way through the write, as a full disk does."""
    target = tmp_path / "part.safetensors"
    target.write_bytes(b"the old file")
    program = (
        "import resource, signal, sys\n"
        "from oddlens.detector.detector import Detector\n"
        "from oddlens.errors import OddlensError\n"
        "detector = Detector.load(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    detector.save(sys.argv[2])\n"
        "except OddlensError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, saved, target], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in done.stdout
    assert target.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_created_is_an_error(digits_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OddlensError, match="cannot be written"):
        digits_detector.save(tmp_path / "file" / "part.safetensors")


def test_a_file_from_before_groups_were_counted_decides_as_it_did() -> None:
    _, tensors = detector_file.load(DIGITS)
    assert "calibration.clusters" not in tensors
    detector = Detector.load(DIGITS)
    assert detector.manifest.data.count_by == "image"
    assert not detector.decision_.calibration.is_clustered
    assert len(detector.tensors["calibration.clusters"]) == 0


def test_groups_of_near_duplicates_that_do_not_match_the_scores_are_refused(
    digits_detector: Detector, tmp_path: Path
) -> None:
    clusters = {"calibration.clusters": np.zeros(3, dtype=np.uint64)}
    path = tmp_path / "part.safetensors"
    detector_file.save(path, digits_detector.manifest, digits_detector.tensors | clusters)
    with pytest.raises(ArtifactError, match="do not match their groups of near-duplicates; calibrate it again"):
        Detector.load(path)


def test_brightness_that_does_not_match_the_scores_is_refused(digits_detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    detector_file.save(
        path, digits_detector.manifest, digits_detector.tensors | {"calibration.brightness": np.zeros(3)}
    )
    with pytest.raises(ArtifactError, match="do not match their brightness; calibrate it again"):
        Detector.load(path)

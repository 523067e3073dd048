"""The user's own backbone: fitted, saved, loaded and exported, or refused with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from disc_images import part_images
from own_backbones import BATCH, ConvNet, TokenNet, write_onnx

from oddlens.config.base import InputSpec
from oddlens.config.detectors import (
    AutoSettings,
    CrossfitSettings,
    EnsembleSettings,
    FamilySettings,
    FeaturesSettings,
    Member,
    PadimSettings,
    PatchcoreSettings,
)
from oddlens.data.training_images import PRETRAINED_SIDES
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, MissingExtraError, SettingsError
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.backbones.onnx_graph import read_backbone
from oddlens.training.own_backbone import describe_parts, input_sides, open_backbone

SPEC = InputSpec(height=64, width=64, channels=1)


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_onnx(tmp_path_factory.mktemp("conv") / "conv.onnx", ConvNet(pooled=True))


def test_the_deepest_outputs_are_used_unless_depths_are_set(conv: Path) -> None:
    file = read_backbone(conv)
    own = str(conv)
    padim, _ = describe_parts(PadimSettings(backbone=own, side=16), file, SPEC)
    assert isinstance(padim, PadimSettings)
    assert (padim.depths, padim.map_depths) == ((1, 2), (0, 1))
    features, (remark,) = describe_parts(FeaturesSettings(backbone=own, depths=(0,), side=16), file, SPEC)
    assert isinstance(features, FeaturesSettings)
    assert features.depths == (0,)
    assert remark == (
        "features: conv.onnx gets images of 64 x 64 pixels and gives 'map0' (8 channels at 32 x 32 places); not used: "
        "'map1', 'map2', 'map3'"
    )


def test_every_part_with_the_backbone_gets_it(conv: Path) -> None:
    padim = PadimSettings(backbone=str(conv), side=16)
    plan = EnsembleSettings(members=(Member(model=padim), Member(model=PadimSettings())))
    described, remarks = describe_parts(plan, read_backbone(conv), SPEC)
    assert described.own_backbone is not None
    assert described.backbones == {described.own_backbone, "efficientnet-lite0"}
    assert len(remarks) == 1
    folds = describe_parts(CrossfitSettings(model=padim), read_backbone(conv), SPEC)[0]
    assert folds.own_backbone == described.own_backbone


def test_a_depth_that_the_graph_does_not_have_is_refused(conv: Path) -> None:
    with pytest.raises(SettingsError, match=r"conv\.onnx: has the depths 0 to 2, and depth 7 is set"):
        Detector(PadimSettings(backbone=str(conv), depths=(7,))).fit(part_images(20, 0))


def test_different_backbones_cannot_be_combined(conv: Path, tmp_path: Path) -> None:
    members = tuple(Member(model=PadimSettings(backbone=name)) for name in (str(conv), str(tmp_path / "other.onnx")))
    with pytest.raises(SettingsError, match="cannot be combined"):
        open_backbone(EnsembleSettings(members=members))


@pytest.mark.parametrize(("robust", "pretrained"), [(True, True), (False, False)])
def test_auto_refuses_a_backbone_beside_what_excludes_it(robust: bool, pretrained: bool, conv: Path) -> None:
    with pytest.raises(SettingsError, match="robust=True or pretrained=False: they exclude each other"):
        open_backbone(AutoSettings(backbone=str(conv), robust=robust, pretrained=pretrained))


def test_auto_refuses_a_backbone_by_name_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingExtraError("the backbone", "pretrained")

    monkeypatch.setattr(efficientnet_lite, "weights_path", missing)
    with pytest.raises(MissingExtraError):
        open_backbone(AutoSettings(backbone="efficientnet-lite0"))
    assert open_backbone(AutoSettings()) is None


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing.onnx", DataNotFoundError, "no such file for a backbone"),
        ("nothing.safetensors", DataNotFoundError, "no such detector file"),
    ],
)
def test_a_missing_file_is_refused(name: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        open_backbone(PadimSettings(backbone=str(tmp_path / name)))


@pytest.mark.parametrize("axes", [1, 3])
def test_pooled_features_suit_features_alone(axes: int, tmp_path: Path) -> None:
    class Pooled(ConvNet):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            pooled = super().forward(images)[-1]
            return (pooled.argmax(dim=1), pooled if axes == 1 else pooled[:, :, None, None])

    path = write_onnx(tmp_path / "pooled.onnx", Pooled(pooled=True))
    for settings in (PadimSettings(backbone=str(path)), PatchcoreSettings(backbone=str(path))):
        with pytest.raises(SettingsError, match=r"pooled\.onnx: has only features of whole images, .* features"):
            Detector(settings).fit(part_images(20, 0))
    detector = Detector(FeaturesSettings(backbone=str(path), side=16)).fit(part_images(60, 0))
    assert any("not used: 'map0'" in remark for remark in detector.manifest.remarks)
    assert detector.score(np.zeros((1, 64, 64), np.uint8))[0] > detector.score(part_images(20, 1)).max()


def test_large_images_are_brought_to_the_size_that_the_graph_prescribes(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "fixed.onnx", ConvNet(), (2, 3, 24, 40), BATCH)
    file = read_backbone(path)
    assert input_sides(file)[:2] == (40, 24)
    large = np.repeat(part_images(30, 0), 3, axis=2)
    detector = Detector(PadimSettings(backbone=str(path))).fit(large)
    assert (detector.spec.height, detector.spec.width) == (24, 40)
    small = Detector(PadimSettings(backbone=str(path))).fit(part_images(30, 0)[:, :20, :30])
    assert (small.spec.height, small.spec.width) == (20, 30)
    with pytest.raises(SettingsError, match=r"takes images of 40 x 24 pixels alone, .* use --size 24"):
        Detector(PadimSettings(backbone=str(path)), size=48).fit(large)


def test_images_of_the_size_that_the_graph_prescribes_are_not_resized(tmp_path: Path) -> None:
    """Larger inputs have sides that are multiples of 8 otherwise."""
    path = write_onnx(tmp_path / "fixed.onnx", ConvNet(), (2, 3, 134, 134), BATCH)
    images = np.tile(part_images(30, 0), (1, 3, 3, 1))[:, :134, :134]
    detector = Detector(FeaturesSettings(backbone=str(path))).fit(images)
    assert (detector.spec.height, detector.spec.width) == (134, 134)


def test_images_of_any_size_are_as_large_as_with_the_other_backbone(conv: Path) -> None:
    assert input_sides(read_backbone(conv)) == PRETRAINED_SIDES


def test_weights_that_are_not_numbers_are_refused_before_training(tmp_path: Path) -> None:
    network = ConvNet()
    torch.nn.init.constant_(network.convs[1].bias, torch.nan)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"nan\.onnx: its output 'map1' has values that are not finite"):
        Detector(PadimSettings(backbone=str(write_onnx(tmp_path / "nan.onnx", network)))).fit(part_images(20, 0))


Make = Callable[[str], FamilySettings]
FAMILIES: dict[str, Make] = {
    "padim": lambda own: PadimSettings(backbone=own, side=16),
    "patchcore": lambda own: PatchcoreSettings(backbone=own, side=16, bank_megabytes=0.1),
    "features": lambda own: FeaturesSettings(backbone=own, side=16),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_detector_has_the_backbone_in_it(family: str, conv: Path, tmp_path: Path) -> None:
    detector = Detector(FAMILIES[family](str(conv))).fit(part_images(60, 0))
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    new = part_images(9, 1)
    np.testing.assert_array_equal(loaded.score(new), detector.score(new))
    np.testing.assert_allclose(loaded.score(new[:1]), loaded.score(new)[:1], rtol=1e-6)
    np.testing.assert_array_equal(loaded.tensors["backbone.graph"], np.fromfile(conv, np.uint8))
    (notice,) = loaded.manifest.notices
    assert notice.name == "conv.onnx"
    again = Detector(FAMILIES[family](str(tmp_path / "part.safetensors"))).fit(part_images(60, 0))
    np.testing.assert_array_equal(again.score(new), detector.score(new))


def test_a_detector_without_one_is_no_source_of_a_backbone(digits_detector: Detector, tmp_path: Path) -> None:
    path = digits_detector.save(tmp_path / "digits.safetensors")
    with pytest.raises(SettingsError, match=r"digits\.safetensors: has no backbone of its own"):
        open_backbone(PadimSettings(backbone=str(path)))


def test_patchcore_with_it_calibrates_on_all_images_which_change_no_scale(conv: Path) -> None:
    """Scales and projections are the same for other training images, as leave-one-out needs."""
    make, rest = FAMILIES["patchcore"], part_images(60, 0)
    detectors = [Detector(make(str(conv))).fit(images) for images in (rest, part_images(60, 7, gain=0.5))]
    assert detectors[0].manifest.data.calibration == "leave_one_out"
    for name in ("model.backbone.scale_1", "model.backbone.scale_2"):
        np.testing.assert_array_equal(detectors[0].tensors[name], detectors[1].tensors[name])


@pytest.mark.parametrize(("side", "members"), [(96, ["padim"]), (32, ["features"])])
def test_auto_uses_it_without_the_extra(
    side: int, members: list[str], conv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "is_installed", lambda: False)
    monkeypatch.setattr("oddlens.training.resolve.is_installed", lambda: False)
    images = np.random.default_rng(0).integers(0, 255, (40, side, side), dtype=np.uint8)
    detector = Detector(AutoSettings(backbone=str(conv)), budget=20).fit(images[..., None].repeat(3, axis=3))
    plan = detector.manifest.model
    assert [member.model.family for member in plan.planned_members] == members
    assert plan.own_backbone is not None
    assert any("conv.onnx gets images" in remark for remark in detector.manifest.remarks)
    assert not any("pip install" in remark for remark in detector.manifest.remarks)


def test_a_plan_without_the_file_asks_for_it(conv: Path) -> None:
    described, _ = describe_parts(PadimSettings(backbone=str(conv), side=16), read_backbone(conv), SPEC)
    with pytest.raises(SettingsError, match=r"the backbone conv\.onnx \(SHA-256 .* is not part of the plan; .*--backb"):
        Detector(described).fit(part_images(20, 0))


def test_tokens_of_single_images_are_features_of_places(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "vit.onnx", TokenNet(8), (1, 3, 64, 64), None)
    detector = Detector(PadimSettings(backbone=str(path))).fit(part_images(60, 0))
    spotted = part_images(20, 2)
    spotted[:, 28:34, 28:34] = 0
    assert detector.score(spotted).min() > np.median(detector.score(part_images(40, 1)))

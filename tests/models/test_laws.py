"""Laws that every family of detectors obeys, run over the whole registry and over a family from outside."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from own_backbones import ConvNet, write_onnx
from pretrained_extra import needs_pretrained
from toy_family import toy_family

from oddlens.artifact import detector_file
from oddlens.config.base import InputSpec, RuntimeSettings, TrainingSettings
from oddlens.config.detectors import (
    FAMILIES,
    AutoencoderSettings,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    FeaturesSettings,
    Member,
    PadimSettings,
    PatchcoreSettings,
    RotationSettings,
)
from oddlens.config.parse import parse_model
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import SettingsError, StateError
from oddlens.inference.golden import golden_pixels
from oddlens.inference.open import open_graph
from oddlens.inference.tiling import with_tiles
from oddlens.models import registry
from oddlens.models.base import GradientModel
from oddlens.training.own_backbone import describe_parts, open_backbone

ROTATION_TRAINING = TrainingSettings(epochs=2, batch_size=32, optimizer="muon", schedule="linear")
OWN = "own.onnx"  # for whose place a test has a file
# Every family, in each of the forms that its settings give it.
FORMS: dict[str, FamilySettings] = {
    "autoencoder-strided": AutoencoderSettings(widths=(8, 16), latent_dim=8),
    "autoencoder-pooling": AutoencoderSettings(architecture="pooling", widths=(8, 16), loss="bce"),
    "autoencoder-ssim-top": AutoencoderSettings(widths=(8,), latent_dim=8, loss="ssim", error="ssim", top_percent=10),
    "autoencoder-l1-denoising-sap": AutoencoderSettings(
        widths=(8,), latent_dim=8, loss="l1", error="l1", noise=0.1, score="sap"
    ),
    "autoencoder-nap": AutoencoderSettings(widths=(8, 16), latent_dim=8, score="nap"),
    "autoencoder-pooling-latent": AutoencoderSettings(architecture="pooling", widths=(8, 16), score="latent"),
    "defects": DefectsSettings(widths=(8, 16)),
    "defects-one-level": DefectsSettings(widths=(8,), top_percent=10),
    "defects-shrunk": DefectsSettings(widths=(8, 16), shrink=2),
    "dictionary": DictionarySettings(atoms=20),
    "dictionary-two-sizes-mirrored": DictionarySettings(patch_sizes=(4, 6), atoms=10, cells=3, mirror=True),
    "dictionary-local": DictionarySettings(
        score="local", atoms=20, place=0, top_percent=5, light="varies", place_floor=0.1
    ),
    "features": FeaturesSettings(depths=(1, 2), side=24, mirror=True),
    "features-own-backbone": FeaturesSettings(backbone=OWN, side=24),
    "padim": PadimSettings(depths=(1, 2), map_depths=(0, 2), side=16),
    "padim-with-head": PadimSettings(depths=(1, 2), map_depths=(0, 2), side=16, defect_weight=0.5),
    "padim-fixed-light": PadimSettings(depths=(2,), map_depths=(2,), side=16, light="fixed", top_percent=50),
    "padim-own-backbone": PadimSettings(backbone=OWN, side=16),
    "patchcore-own-backbone": PatchcoreSettings(backbone=OWN, side=16, bank_megabytes=0.1),
    "patchcore": PatchcoreSettings(depths=(1, 2), side=16, bank_megabytes=0.1),
    "transforms": RotationSettings(side=16, widths=(8, 8, 16), bank=50),
    "transforms-unmirrored": RotationSettings(side=16, widths=(8, 8, 16), bank=3, mirror=False),
    "transforms-upright": RotationSettings(side=16, widths=(8, 8, 16), bank=50, scored_rotations=1),
    "ensemble": EnsembleSettings(
        members=(
            Member(model=AutoencoderSettings(widths=(8,), latent_dim=8), training=TrainingSettings(epochs=2)),
            Member(model=RotationSettings(side=16, widths=(8, 8, 16), bank=50), training=ROTATION_TRAINING, weight=0.5),
        )
    ),
    "ensemble-pretrained": EnsembleSettings(
        members=(
            Member(model=PatchcoreSettings(depths=(1, 2), side=16, bank_megabytes=0.1)),
            Member(model=PadimSettings(depths=(1, 2), map_depths=(0, 2), side=16), weight=0.5),
        )
    ),
    "crossfit": CrossfitSettings(model=AutoencoderSettings(widths=(8,), latent_dim=8), folds=3),
    "crossfit-dictionary": CrossfitSettings(model=DictionarySettings(atoms=20), folds=2),
}
ENGINES = [RuntimeSettings(engine="onnxruntime")]
if find_spec("openvino") is not None:  # an extra
    ENGINES.append(RuntimeSettings(engine="openvino"))
SIZES = {"colour 8 bits": (16, 16, 3, 255), "grey 12 bits": (13, 18, 1, 4095)}
ONE_SIZE = ("colour 8 bits",)  # of the further forms of a family, and of those with a backbone of the user's own
FURTHER_FORMS = (
    "autoencoder-ssim-top",
    "autoencoder-l1-denoising-sap",
    "autoencoder-nap",
    "autoencoder-pooling-latent",
    "defects-one-level",
    "defects-shrunk",
    "dictionary-two-sizes-mirrored",
    "features-own-backbone",
    "padim-fixed-light",
    "padim-own-backbone",
    "patchcore-own-backbone",
    "transforms-unmirrored",
    "transforms-upright",
    "ensemble-pretrained",
    "crossfit-dictionary",
)
COLOUR_WITH_REGION = (13, 18, 3, 255)  # of main forms
TILED = (24, 40, 1, 4095)  # images that are scored in eight tiles of 16 x 16
TILED_FORMS = (
    "autoencoder-strided",
    "defects",
    "dictionary",
    "dictionary-local",
    "transforms",
    "ensemble",
    "padim-with-head",
    "patchcore",
    "toy",
)


def training(form: FamilySettings, seed: int = 3) -> TrainingSettings:
    """A short training; an ensemble's members have their own, and the dictionary needs none."""
    if not issubclass(registry.family_of(form.base).model, GradientModel):
        return TrainingSettings(seed=seed)
    return TrainingSettings(epochs=2, batch_size=32, seed=seed)


def pictures(size: tuple[int, int, int, int], count: int, seed: int = 0) -> Pixels:
    """Blobs at random places: something to learn. With tiles, on noise, so that no two tiles are the same."""
    height, width, channels, value_max = size
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    centre = rng.uniform(0.3, 0.7, (count, 2)) * (height, width)
    distance = (rows - centre[:, 0, None, None]) ** 2 + (columns - centre[:, 1, None, None]) ** 2
    blobs = np.exp(-distance / 12)[..., None] * rng.uniform(0.6, 1, (count, 1, 1, channels))
    if size == TILED:
        blobs += rng.uniform(0, 0.2, blobs.shape) * (1 - blobs)
    pixels: Pixels = (blobs * value_max).astype(np.uint8 if value_max == 255 else np.uint16)
    return pixels


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The main forms of each family with every size, further ones with one, and some forms in tiles."""
    forms = [*FORMS, "toy"]
    marks = {name: needs_pretrained for name, settings in FORMS.items() if settings.uses_pretrained}
    if {"form", "size"} <= set(metafunc.fixturenames):
        pairs = [(form, size) for form in forms for size in (ONE_SIZE if form in FURTHER_FORMS else SIZES)]
        pairs += [(form, "tiled") for form in TILED_FORMS]
        if metafunc.function is test_the_export_agrees:  # main forms are exported in colour with a region, too
            pairs = [(form, size) for form, size in pairs if form in FURTHER_FORMS or size not in ONE_SIZE]
            pairs = [(form, size) for form, size in pairs if form not in TILED_FORMS or size == "tiled"]
        cases = [pytest.param(*pair, marks=marks.get(pair[0], ())) for pair in pairs]
        metafunc.parametrize(("form", "size"), cases, indirect=True, scope="module")
    elif "form" in metafunc.fixturenames:
        cases = [pytest.param(form, marks=marks.get(form, ())) for form in forms]
        metafunc.parametrize("form", cases, indirect=True, scope="module")


@pytest.fixture(scope="module")
def own_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return str(write_onnx(tmp_path_factory.mktemp("backbone") / OWN, ConvNet()))


@pytest.fixture(scope="module")
def form(request: pytest.FixtureRequest, own_backbone: str) -> Iterator[FamilySettings]:
    if request.param == "toy":
        with toy_family() as settings:
            yield settings
    elif OWN in FORMS[request.param].backbones:
        yield FORMS[request.param].map_backbones(lambda part: part.model_copy(update={"backbone": own_backbone}))
    else:
        yield FORMS[request.param]


def described(form: FamilySettings, spec: InputSpec) -> FamilySettings:
    """The form as it is in a detector file."""
    return describe_parts(form, open_backbone(form), spec)[0]


def fit(form: FamilySettings, size: tuple[int, int, int, int], seed: int = 3, roi: str | None = None) -> Detector:
    """A detector of images of this size, in tiles where it is that of tiled ones."""
    tile: int | Literal["off"] = 16 if size == TILED else "off"
    return Detector(form, training=training(form, seed), tile=tile, roi=roi).fit(pictures(size, 60))


@pytest.fixture(scope="module")
def size(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    return SIZES.get(request.param, TILED)


@pytest.fixture(scope="module")
def detector(form: FamilySettings, size: tuple[int, int, int, int]) -> Detector:
    return fit(form, size)


def test_every_family_of_the_registry_is_under_the_laws() -> None:
    assert {type(settings) for settings in FORMS.values()} == set(FAMILIES.values())


def test_a_family_from_outside_is_known_by_its_name_while_it_is_registered() -> None:
    with toy_family() as settings:
        assert parse_model({"family": "toy", "share": 0.25}, "test") == settings.model_copy(update={"share": 0.25})
        with pytest.raises(SettingsError, match="did you mean 'share'"):
            parse_model({"family": "toy", "shar": 0.25}, "test")
        assert Detector("toy").fit(pictures((8, 8, 1, 255), 120)).manifest.model == settings
    with pytest.raises(SettingsError, match="'toy' is not a detector"):
        parse_model({"family": "toy"}, "test")


def test_an_unfitted_detector_refuses_to_score(form: FamilySettings, size: tuple[int, int, int, int]) -> None:
    with pytest.raises(StateError, match="not fitted"):
        Detector(form).score(pictures(size, 2))


def test_the_same_seed_gives_the_same_weights(
    detector: Detector, form: FamilySettings, size: tuple[int, int, int, int]
) -> None:
    again = fit(form, size).tensors
    for name, tensor in detector.tensors.items():
        np.testing.assert_array_equal(tensor, again[name], err_msg=name)


def test_another_seed_gives_other_weights(
    detector: Detector, form: FamilySettings, size: tuple[int, int, int, int]
) -> None:
    tensors, others = detector.tensors, fit(form, size, seed=4).tensors
    weights = [name for name in tensors if name.startswith("model.")]
    assert any(not np.array_equal(tensors[name], others[name]) for name in weights)


def test_a_saved_detector_gives_equal_scores(
    detector: Detector, size: tuple[int, int, int, int], tmp_path: Path
) -> None:
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    new = pictures(size, 40, seed=1)
    np.testing.assert_array_equal(detector.score(new), loaded.score(new))
    assert loaded.decision_.threshold == detector.decision_.threshold
    assert loaded.manifest.model_copy(update={"digest": ""}) == detector.manifest


def test_the_batch_size_does_not_matter(detector: Detector, size: tuple[int, int, int, int]) -> None:
    new = pictures(size, 40, seed=1)
    runs = [
        np.concatenate([outputs.anomaly_score for outputs in detector.iter_predictions(new, batch_size)])
        for batch_size in (1, 7, 40)
    ]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-5)


def test_scores_are_finite_and_not_all_the_same(detector: Detector, size: tuple[int, int, int, int]) -> None:
    scores = detector.score(np.concatenate([pictures(size, 40, seed=1), golden_pixels(detector.spec)]))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 40


def test_maps_and_reconstructions_have_the_images_shape(detector: Detector, size: tuple[int, int, int, int]) -> None:
    height, width, channels, _ = size
    (outputs,) = detector.iter_predictions(pictures(size, 5))
    assert outputs.anomaly_score.shape == (5,)
    assert outputs.anomaly_map is None or outputs.anomaly_map.shape == (5, height, width)
    assert outputs.reconstruction is None or outputs.reconstruction.shape == (5, height, width, channels)


def test_nothing_outside_the_region_of_interest_counts(
    form: FamilySettings, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported = request.node.callspec.params["form"] not in FURTHER_FORMS
    check_region(form, COLOUR_WITH_REGION if exported else SIZES["colour 8 bits"], tmp_path, exported=exported)


@pytest.mark.parametrize("name", ["autoencoder-strided", "dictionary-local"])
def test_nothing_outside_the_region_of_interest_counts_in_tiles(name: str, tmp_path: Path) -> None:
    check_region(FORMS[name], TILED, tmp_path)


def check_region(form: FamilySettings, size: tuple[int, int, int, int], tmp_path: Path, exported: bool = True) -> None:
    """Score images with a detector of their left half, and again with either half painted over."""
    detector, half = fit(form, size, roi="0,0,0.5,1"), size[1] // 2
    new = pictures(size, 10, seed=1)
    painted = new.copy()
    painted[:, :, half:] = size[3] - painted[:, :, half:]
    np.testing.assert_array_equal(detector.score(new), detector.score(painted))
    (outputs,) = detector.iter_predictions(new)
    assert outputs.anomaly_map is None or (outputs.anomaly_map[:, :, half:] == 0).all()
    inside = new.copy()
    inside[:, :, :half] = size[3] - inside[:, :, :half]
    assert (detector.score(inside) != detector.score(new)).all()
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    np.testing.assert_array_equal(loaded.score(new), detector.score(new))
    if exported:
        graph = check_export(detector, new, tmp_path / "part.onnx")
        for pixels in (new, painted, inside):
            np.testing.assert_allclose(graph.score(pixels), detector.score(pixels), rtol=1e-4)


def test_the_label_is_a_score_above_the_threshold(detector: Detector, size: tuple[int, int, int, int]) -> None:
    verdicts = detector.predict(np.concatenate([pictures(size, 40, seed=1), golden_pixels(detector.spec)]))
    np.testing.assert_array_equal(verdicts.label, verdicts.anomaly_score > verdicts.threshold)
    assert verdicts.verdict == ["anomaly" if label else "normal" for label in verdicts.label]


def test_the_export_agrees(detector: Detector, size: tuple[int, int, int, int], tmp_path: Path) -> None:
    check_export(detector, pictures(size, 20, seed=1), tmp_path / "part.onnx")


def check_export(detector: Detector, new: Pixels, path: Path) -> Detector:
    """Score images with a detector and with its file, which is returned, in each engine."""
    export(detector, path)
    exported = Detector.load(path)
    np.testing.assert_allclose(exported.score(new), detector.score(new), rtol=1e-4)
    assert exported.decision_.threshold == detector.decision_.threshold
    np.testing.assert_array_equal(exported.predict(new).p_value, detector.predict(new).p_value)
    (ours,) = detector.iter_predictions(new)
    assert exported.graph is not None
    for engine in ENGINES:
        graph = open_graph(exported.graph, detector.manifest.model_input, engine, path)
        theirs = with_tiles(graph, detector.spec, detector.manifest.tiling, detector.region)(new)
        np.testing.assert_allclose(theirs.anomaly_score, ours.anomaly_score, rtol=1e-4)
        for found, expected in zip(theirs[1:], ours[1:], strict=True):  # map and reconstruction
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                np.testing.assert_allclose(found, expected, atol=1e-4)
    return exported


def test_shapes_are_known_without_allocating(form: FamilySettings) -> None:
    spec = InputSpec(height=20, width=24, channels=3)
    form = described(form, spec)
    built = registry.build(form, spec, seed=0)
    known, found = registry.tensor_shapes(form, spec), built.state_dict()
    assert known.keys() == found.keys() >= built.banks.keys()
    for name, tensor in found.items():
        rows = range(1, built.banks[name] + 1) if name in built.banks else None
        assert known[name] == (tuple(tensor.shape) if rows is None else (rows, *tensor.shape[1:]))


def test_every_tensor_of_a_fitted_detector_has_a_shape_that_its_file_may_have(detector: Detector) -> None:
    tensors = detector.tensors
    for name, shape in registry.tensor_shapes(detector.manifest.model, detector.manifest.model_input).items():
        assert detector_file.shape_fits(tensors[f"model.{name}"].shape, shape)


def test_building_a_model_leaves_the_users_randomness_alone(form: FamilySettings) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    spec = InputSpec(height=16, width=16, channels=1)
    registry.build(described(form, spec), spec, seed=5)
    assert torch.equal(torch.rand(3), expected)

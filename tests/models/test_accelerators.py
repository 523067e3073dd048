"""Accelerators: how they are looked for, and which batches of an autoencoder they compute."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import PluginError
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models import accelerators, registry
from oddlens.models.autoencoder import Autoencoder


class LayersThatCount:
    """An accelerated network that runs PyTorch's layers in float32, and records which of its methods are called."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = nn.Sequential(*layers)
        self.calls: list[str] = []

    def logits(self, batch: Tensor) -> Tensor:
        self.calls.append("logits")
        with torch.autocast("cpu", enabled=False):
            outputs: Tensor = self.layers(batch)
        return outputs

    def errors(self, batch: Tensor, kind: Literal["l1", "mse"], *, bf16: bool) -> tuple[Tensor, Tensor]:
        self.calls.append(f"{kind} {'bf16' if bf16 else 'fp32'}")
        rebuilt = torch.sigmoid(self.layers(batch)).float()
        return rebuilt, (batch - rebuilt).square().mean(dim=1)

    def release(self) -> None:
        self.calls.append("release")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[LayersThatCount]:
    """The networks that an accelerator has offered; this one is the only one installed."""
    networks: list[LayersThatCount] = []

    def offer(layers: Sequence[nn.Module], height: int, width: int, channels: int) -> LayersThatCount:
        networks.append(LayersThatCount(layers))
        return networks[-1]

    monkeypatch.setattr(accelerators, "installed", lambda: (offer,))
    return networks


def build_model(**changes: object) -> Autoencoder:
    settings = AutoencoderSettings.model_validate({"architecture": "pooling", "widths": (8, 16)} | changes)
    model = registry.build(settings, InputSpec(height=18, width=22, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    return model


def image_batch(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 18, 22, generator=torch.Generator().manual_seed(0))


def in_bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)  # type: ignore[no-untyped-call, unused-ignore]


def install(folder: Path, name: str, source: str) -> None:
    """Write a distribution with an accelerator, as `pip install` would leave it."""
    (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[oddlens.accelerators]\n{name} = {name}:offer\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages beside those of this environment, whose own accelerators are left out."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "oddlens.models.accelerators.entry_points",
        lambda group: [entry for entry in entry_points(group=group) if entry.name.startswith("toy_")],
    )
    monkeypatch.setattr(accelerators, "installed", accelerators.installed.__wrapped__)
    return tmp_path


def test_without_accelerators_the_layers_run(site: Path) -> None:
    model = build_model().eval()
    assert model.accelerated is None
    assert not model.uses_all_threads
    with torch.inference_mode():
        assert model(image_batch()).anomaly_score.isfinite().all()


def test_accelerators_are_asked_by_name_until_one_offers_a_network(site: Path) -> None:
    install(site, "toy_b", "def offer(layers, height, width, channels):\n    return f'{height} {width} {channels}'\n")
    install(site, "toy_a", "def offer(layers, height, width, channels):\n    return None\n")
    install(site, "toy_c", "def offer(layers, height, width, channels):\n    raise AssertionError\n")
    assert str(accelerators.accelerate([], 20, 24, 1)) == "20 24 1"


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("toy_without_torch", "import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("toy_of_another_version", "other = 1", "has no attribute 'offer'"),
        ("toy_damaged", "import ctypes\nctypes.CDLL(__file__)", "OSError"),
    ],
)
def test_an_accelerator_that_cannot_be_loaded_is_named(site: Path, name: str, source: str, reason: str) -> None:
    install(site, name, source)
    expected = rf"{name} is installed but cannot be loaded .*{reason}.*\(pip uninstall {name}\)"
    with pytest.raises(PluginError, match=expected):
        build_model().eval().accelerated  # noqa: B018


def test_an_error_of_an_accelerator_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(*_: object) -> None:
        raise PluginError("SWITCH is maybe: set it to on or off")

    monkeypatch.setattr(accelerators, "installed", lambda: (offer,))
    pixels = np.zeros((40, 16, 16, 1), dtype=np.uint8)
    with pytest.raises(PluginError, match="set it to on or off"):
        Detector(AutoencoderSettings(), training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)


def test_training_in_bf16_is_accelerated_and_in_fp32_it_is_not(offered: list[LayersThatCount]) -> None:
    model = build_model()
    with in_bf16():
        accelerated = model.loss(image_batch())
    (network,) = offered
    assert network.calls == ["logits"]
    assert torch.equal(model.loss(image_batch()), accelerated), "the padding was not cut off"
    assert network.calls == ["logits"]


def test_scoring_is_accelerated_in_inference_mode_alone(offered: list[LayersThatCount]) -> None:
    model = build_model(error="mse").eval()
    with torch.inference_mode():
        actual = model(image_batch())
        with in_bf16():
            model(image_batch())
    (network,) = offered
    assert network.calls == ["mse fp32", "mse bf16"]
    expected = model(image_batch())
    assert network.calls == ["mse fp32", "mse bf16"]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", ["another size", "a gradient of the batch", "float64"])
def test_the_layers_run_what_is_not_accelerated(case: str, offered: list[LayersThatCount]) -> None:
    model, batch = build_model(), image_batch()
    if case == "another size":
        batch = torch.rand(2, 1, 20, 20)
    elif case == "float64":
        model = model.double()
    else:
        batch.requires_grad_()
    assert model.accelerated_for(batch) is None
    assert all(network.calls == [] for network in offered)


@pytest.mark.parametrize(
    ("changes", "streams"),
    [
        ({}, 1),
        ({"error": "l1"}, 1),
        ({"error": "ssim"}, 2),
        ({"score": "sap"}, 2),
        ({"score": "nap"}, 2),
    ],
    ids=str,
)
def test_batches_are_scored_in_parallel_where_scores_are_not_accelerated(
    changes: dict[str, str], streams: int, offered: list[LayersThatCount], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddlens.inference.torch_backend.get_threads", lambda: 2)
    for precision in ("fp32", "bf16"):
        assert TorchBackend(build_model(**changes), torch.device("cpu"), precision).streams == streams


def test_on_a_gpu_no_accelerator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "installed", lambda: pytest.fail("accelerators were looked for"))
    backend = TorchBackend(build_model(), torch.device("cpu"))
    monkeypatch.setattr(backend, "device", torch.device("cuda"))
    assert backend.streams == 1


def test_export_uses_the_layers_even_in_inference_mode(tmp_path: Path, offered: list[LayersThatCount]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    detector = Detector(AutoencoderSettings(widths=(8, 8), latent_dim=8), training=TrainingSettings(epochs=1))
    detector.fit(pixels, hold_out=False)
    with torch.inference_mode():
        export(detector, tmp_path / "part.onnx")
    np.testing.assert_allclose(Detector.load(tmp_path / "part.onnx").score(pixels), detector.score(pixels), rtol=1e-5)


def test_memory_is_released_between_training_and_scoring(offered: list[LayersThatCount]) -> None:
    model = build_model()
    model.eval()
    assert offered == [], "an accelerator was asked although nothing is computed"
    model.accelerated_for(image_batch())
    model.train()
    assert offered[0].calls == ["release"]


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_accelerated_by_networks_of_their_own(how: str, offered: list[LayersThatCount]) -> None:
    model = build_model().eval()
    assert model.accelerated is offered[0]
    copied = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert copied.accelerated is offered[1]
    assert next(offered[1].layers.parameters()) is next(copied.parameters())

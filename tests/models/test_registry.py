"""Building models from their settings, and the shapes of their tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings, DictionarySettings, EnsembleSettings, FamilySettings, Member
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.patch_dictionary import Dictionary
from oddlens.models.registry import build, build_module, family_of, tensor_shapes

SPEC = InputSpec(height=16, width=16, channels=1)
SETTINGS = AutoencoderSettings(widths=(4,), latent_dim=4)


@pytest.mark.parametrize(("settings", "model"), [(SETTINGS, Autoencoder), (DictionarySettings(atoms=4), Dictionary)])
def test_settings_lead_to_their_model(settings: FamilySettings, model: type[torch.nn.Module]) -> None:
    assert family_of(settings).model is model
    assert isinstance(build(settings, SPEC, seed=0), model)


def test_the_seed_determines_the_weights() -> None:
    weights = [torch.cat([p.flatten() for p in build(SETTINGS, SPEC, seed).parameters()]) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_modules_draw_their_weights_from_the_global_generator() -> None:
    torch.manual_seed(7)
    first, second = build_module(SETTINGS, SPEC).state_dict(), build_module(SETTINGS, SPEC).state_dict()
    torch.manual_seed(7)
    again = build_module(SETTINGS, SPEC).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_shapes_of_banks_are_ranges_of_rows() -> None:
    shapes = tensor_shapes(DictionarySettings(atoms=4, bank_megabytes=0.01), SPEC)
    rows = shapes["places.rows"]
    assert rows == (range(1, 2001), 10)  # 8 axes and 2 coordinates
    assert all(isinstance(shape[0], int) for name, shape in shapes.items() if not name.endswith(".rows"))
    members = tensor_shapes(EnsembleSettings(members=(Member(model=DictionarySettings(atoms=4)),)), SPEC)
    assert members["members.0.places.rows"] == rows


def test_models_work_if_their_module_is_first_imported_to_compute_shapes() -> None:
    code = """
import torch
from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.models.registry import build, tensor_shapes

settings, spec = AutoencoderSettings(architecture="pooling", widths=(4,)), InputSpec(height=8, width=8, channels=1)
tensor_shapes(settings, spec)
assert build(settings, spec, seed=0)(torch.zeros(1, 1, 8, 8)).anomaly_score.isfinite().all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)

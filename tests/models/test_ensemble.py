"""Ensembles: standardized scores, weights, and no nesting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings, DictionarySettings, EnsembleSettings, FamilySettings, Member
from oddlens.data.image_io import Pixels
from oddlens.errors import SettingsError
from oddlens.models import registry
from oddlens.models.ensemble import Ensemble
from oddlens.training import loop

SPEC = InputSpec(height=12, width=12, channels=1)


def sample_images(count: int, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    rows = np.arange(12)[:, None] * rng.uniform(0.5, 1.5, (count, 1, 1)) * 10 + rng.normal(0, 8, (count, 12, 12))
    return rows.clip(0, 255).astype(np.uint8)[..., None]


def ensemble(*weights: float, map_only: tuple[bool, bool] = (False, False)) -> Ensemble:
    """Ensemble of a dictionary and an autoencoder, fitted and standardized."""
    members: tuple[FamilySettings, ...] = (
        DictionarySettings(atoms=8),
        AutoencoderSettings(widths=(4,), latent_dim=4),
    )
    settings = EnsembleSettings(
        members=tuple(
            Member(model=model, weight=weight, map_only=is_map_only)
            for model, weight, is_map_only in zip(members, weights, map_only, strict=True)
        )
    )
    model = registry.build(settings, SPEC, 0)
    assert isinstance(model, Ensemble)
    for part, member in zip(model.parts, settings.members, strict=True):
        loop.train(part, sample_images(60, 0), member.training.model_copy(update={"epochs": 1}), torch.device("cpu"))
    with torch.inference_mode():
        model.fit_standardization(torch.from_numpy(sample_images(40, 1)))
    return model.eval()


def test_scores_are_standardized_on_the_held_out_images() -> None:
    model = ensemble(1.0, 1.0)
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(sample_images(40, 1)))
        raw = torch.stack([part(batch).anomaly_score for part in model.parts], dim=1)
    standardized = (raw - model.centre) / model.spread
    torch.testing.assert_close(standardized.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardized.std(dim=0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_the_score_orders_by_the_weighted_sum_and_is_positive() -> None:
    model = ensemble(1.0, 3.0)
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(sample_images(30, 2)))
        raw = torch.stack([part(batch).anomaly_score for part in model.parts], dim=1)
        score = model(batch).anomaly_score
    expected = ((raw - model.centre) / model.spread) @ torch.tensor([0.25, 0.75])
    torch.testing.assert_close(score, (expected + (expected.square() + 4).sqrt()) / 2)
    assert (score > 0).all()


def test_a_member_for_the_map_alone_counts_in_the_map_and_not_in_the_score() -> None:
    model, both = ensemble(1.0, 3.0, map_only=(False, True)), ensemble(1.0, 3.0)
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(sample_images(30, 2)))
        result, expected = model(batch), (model.parts[0](batch).anomaly_score - model.centre[0]) / model.spread[0]
        torch.testing.assert_close(result.anomaly_score, (expected + (expected.square() + 4).sqrt()) / 2)
        torch.testing.assert_close(result.anomaly_map, both(batch).anomaly_map)


def test_a_score_needs_a_member() -> None:
    with pytest.raises(SettingsError, match="at least one must count for the score"):
        EnsembleSettings(members=(Member(model=DictionarySettings(), map_only=True),))


def test_maps_of_normal_images_have_an_average_maximum_of_one() -> None:
    model = ensemble(1.0, 1.0)
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(sample_images(40, 1)))
        for i, part in enumerate(model.parts):
            values = part(batch).anomaly_map
            assert values is not None
            assert values.amax(dim=(1, 2)).mean().item() == pytest.approx(model.peak[i].item(), rel=1e-4)


def test_members_get_the_region_of_interest() -> None:
    model = ensemble(1.0, 1.0)
    roi = np.zeros((12, 12), dtype=bool)
    roi[:6] = True
    model.set_roi(roi)
    assert all((part.roi.numpy() == roi).all() for part in model.parts)


def test_banks_of_members_have_their_prefix() -> None:
    model = ensemble(1.0, 1.0)
    assert {name for name in model.banks if name.startswith("members.0.")} == set(model.banks)
    assert all(name in model.state_dict() for name in model.banks)


def test_ensembles_are_one_level_deep() -> None:
    from oddlens.config.parse import parse_model

    inner = {"family": "ensemble", "members": [{"model": {"family": "dictionary"}}]}
    with pytest.raises(SettingsError):
        parse_model({"family": "ensemble", "members": [{"model": inner}]}, "test")

"""The defect head: learns defects from normal features, in closed parts, the same again from the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from disc_images import part_images
from pretrained_extra import needs_pretrained

from oddlens import metrics
from oddlens.config.base import InputSpec
from oddlens.config.detectors import FamilySettings, PadimSettings, PatchcoreSettings
from oddlens.data.image_io import Pixels
from oddlens.data.synthetic_defects import add_defects
from oddlens.detector.detector import Detector
from oddlens.models.pretrained.defect_head import DefectHead, Rows, one_cycle, train_network
from oddlens.models.pretrained.padim import Padim

SPEC = InputSpec(height=64, width=64, channels=1)
SETTINGS = PadimSettings(depths=(4,), map_depths=(2,), side=64, defect_weight=1.0)


def fit_padim(settings: PadimSettings, count: int, seed: int = 0) -> Padim:
    model = Padim(settings, SPEC).eval()
    with torch.no_grad():
        model.fit_closed_form(torch.from_numpy(part_images(count, 0)), seed)
    return model


def score_and_map(model: Padim, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = model(model.scale(torch.from_numpy(images)))
    assert output.anomaly_map is not None
    return output.anomaly_score, output.anomaly_map


def random_features(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 16, 16), (3, 8, 8), (4, 4, 4)]
    return [torch.randn(count, *shape, generator=generator) for shape in shapes]


def test_a_network_learns_a_rule_that_is_not_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 6, generator=generator)
    labels = (features[:, 0].abs() > 1).float()
    first, bias, second, last = train_network(features[:15_000], labels[:15_000], generator)
    logits = torch.nn.functional.leaky_relu(features[15_000:] @ first + bias, 0.1) @ second + last
    assert metrics.auroc(labels[15_000:].int().numpy(), logits.numpy()) > 0.98


def test_features_finer_than_the_grid_are_not_used() -> None:
    head = DefectHead([(5, 16, 16), (3, 8, 8), (4, 4, 4)], (8, 8))
    features = random_features(2)
    logits = head(features)
    assert logits.shape == (2, 8, 8)
    assert torch.equal(head([features[0] + 1, *features[1:]]), logits)
    assert not torch.equal(head([features[0], features[1] + 1, features[2]]), logits)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(0.15) == pytest.approx(0.5)
    assert one_cycle(1.0) == pytest.approx(0.0)


@needs_pretrained
def test_the_head_tells_defects_that_it_was_not_shown() -> None:
    model = fit_padim(SETTINGS, 60)
    images = part_images(40, 1)
    defective, masks = add_defects(images, 5, 255)
    with torch.no_grad():
        assert model.head is not None
        logits = [model.head(model.describe(model.scale(torch.from_numpy(part)))) for part in (images, defective)]
        scores = torch.cat([model.evidence_score(values) for values in logits])
    assert metrics.auroc(np.repeat([0, 1], 40), scores.numpy()) > 0.8
    places = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(masks).float(), model.grid)
    assert metrics.auroc(places.flatten().int().numpy(), logits[1].flatten().numpy()) > 0.75


@needs_pretrained
def test_scores_of_normal_images_of_head_and_gaussians_are_on_one_scale() -> None:
    model = fit_padim(SETTINGS, 100)
    with torch.no_grad():
        features = model.describe(model.scale(torch.from_numpy(part_images(100, 1))))
        maps = [gaussian(values) for gaussian, values in zip(model.gaussians, features, strict=False)]
        assert model.head is not None
        assert model.distance_scale is not None
        of_gaussians = model.distance_scale(model.top_distance(maps, model.scored, SETTINGS.top_percent))
        of_head = model.head_scale(model.evidence_score(model.head(features)))
    for values in (of_gaussians, of_head):
        assert abs(float(values.mean())) < 1.0
        assert 0.4 < float(values.std()) < 2.5


@needs_pretrained
def test_the_same_seed_gives_the_same_head_and_another_one_another() -> None:
    first, again, other = (fit_padim(SETTINGS, 20, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.leave.weight"], other["head.leave.weight"])


@needs_pretrained
@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_images_give_finite_scores(count: int) -> None:
    model = fit_padim(SETTINGS, count)
    score, anomaly_map = score_and_map(model, part_images(4, 1))
    assert torch.isfinite(score).all()
    assert torch.isfinite(anomaly_map).all()
    assert score.min() > 0
    assert anomaly_map.min() >= 0


@needs_pretrained
def test_only_places_in_the_region_of_interest_are_learned() -> None:
    model = Padim(SETTINGS, SPEC).eval()
    roi = np.zeros((64, 64), bool)
    roi[:, :32] = True
    model.set_roi(roi)
    head = model.head
    assert head is not None
    drawn, draw = [], head.draw

    def note(*arguments: Any) -> Rows:
        drawn.append(arguments[3])
        return draw(*arguments)

    head.draw = note  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        model.fit_closed_form(torch.from_numpy(part_images(20, 0)), 0)
    shares = torch.cat([share.amax(dim=0, keepdim=True) for share in drawn]).amax(dim=0)
    assert (shares[:, : head.grid[1] // 2] > 0).all()
    assert (shares[:, head.grid[1] // 2 :] == 0).all()


@needs_pretrained
def test_the_scale_is_that_of_the_region_of_interest() -> None:
    model = Padim(SETTINGS, SPEC).eval()
    roi = np.zeros((64, 64), bool)
    roi[24:40, 24:40] = True
    model.set_roi(roi)
    with torch.no_grad():
        model.fit_closed_form(torch.from_numpy(part_images(60, 0)), 0)
        assert model.head is not None
        logits = model.head(model.describe(model.scale(torch.from_numpy(part_images(60, 1)))))
        inside = model.logit_scale(logits)[:, model.places > 0]
    assert abs(float(inside.mean())) < 1.0
    assert 0.4 < float(inside.std()) < 2.5


@needs_pretrained
def test_a_region_in_which_no_defect_lies_leaves_the_head_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_defects(pixels: Pixels, *_: object) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        return pixels, np.zeros(pixels.shape[:3], bool)

    monkeypatch.setattr("oddlens.models.pretrained.defect_head.add_defects", no_defects)
    model = fit_padim(SETTINGS, 10)
    assert "too few images, or too small a region" in (model.fitting_remark or "")
    plain = fit_padim(SETTINGS.model_copy(update={"defect_weight": 0.0}), 10)
    images = part_images(30, 1)
    scores = [score_and_map(each, images)[0] for each in (model, plain)]
    assert torch.equal(scores[0].argsort(), scores[1].argsort())


@needs_pretrained
def test_tiles_of_one_photograph_are_learned_by_one_network() -> None:
    model = Padim(SETTINGS, SPEC).eval()
    head = DefectHead(model.shapes, model.grid)
    images = torch.from_numpy(part_images(12, 0))
    parts: list[torch.Tensor] = []
    normal_rows = head.normal_rows

    def note(*arguments: Any) -> list[Rows]:
        parts.append(arguments[2])
        return normal_rows(*arguments)

    head.normal_rows = note  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        model.backbone.load_pretrained()
        head.fit(model, images, torch.arange(12) // 4, [model.describe(model.scale(images))], 0)
    assert all(len(set(part.tolist())) == 1 for part in torch.split(parts[0], 4))
    assert len(set(parts[0].tolist())) == 2


@needs_pretrained
@pytest.mark.parametrize(
    "settings",
    [PadimSettings(depths=(14,), map_depths=(14,), side=64), PatchcoreSettings(depths=(14,), side=64)],
)
def test_places_that_are_all_alike_are_not_compared_with_their_mean(settings: FamilySettings) -> None:
    detector = Detector(settings, size=64).fit(part_images(40, 0))
    assert len(np.unique(detector.score(part_images(20, 1)))) == 20

"""The ratio of classes: shares are found, images of other classes are improbable, leaving out is exact."""

from __future__ import annotations

import torch

from oddlens import metrics
from oddlens.models.pretrained.class_ratio import ITERATIONS, MIN_SHARE, TEMPERATURE, ClassRatio

N_CLASSES = 20


def logits_of(classes: torch.Tensor, seed: int) -> torch.Tensor:
    """Logits (N, 20) of an unsure classifier for images of these classes."""
    noise = torch.randn(len(classes), N_CLASSES, generator=torch.Generator().manual_seed(seed))
    return TEMPERATURE * (noise + 3 * torch.nn.functional.one_hot(classes, N_CLASSES))


def test_the_shares_of_classes_among_normal_images_are_found() -> None:
    ratio = ClassRatio(N_CLASSES)
    ratio.fit(logits_of(torch.tensor([4, 4, 4, 9]).repeat(200), 0), 800)
    order = ratio.log_shares.argsort(descending=True)
    assert order[:2].tolist() == [4, 9]
    assert 0.5 < float(ratio.log_shares.exp()[4]) < 0.85


def test_images_of_other_classes_are_improbable() -> None:
    ratio = ClassRatio(N_CLASSES)
    ratio.fit(logits_of(torch.full((300,), 4), 0), 300)
    classes = torch.cat([torch.full((200,), 4), torch.arange(200) % 4])
    assert metrics.auroc(classes.numpy() != 4, ratio(logits_of(classes, 1)).numpy()) > 0.9


def test_the_ratio_of_the_classifiers_own_images_is_1() -> None:
    assert torch.equal(ClassRatio(N_CLASSES)(torch.randn(5, N_CLASSES)), torch.zeros(5))


def test_an_image_is_left_out_of_the_shares_of_the_last_iteration_with_its_copies() -> None:
    images = logits_of(torch.arange(6) % 3, 0)
    logits = torch.cat([images, images + 0.5 * torch.randn(6, N_CLASSES)])
    ratio = ClassRatio(N_CLASSES)
    left_out = ratio.fit(logits, 6)
    probabilities = (logits.double() / TEMPERATURE).softmax(dim=1)
    shares = probabilities.mean(dim=0)
    for _ in range(ITERATIONS - 1):
        shares = (probabilities * shares / (probabilities @ shares)[:, None]).mean(dim=0)
    weights = probabilities * shares / (probabilities @ shares)[:, None]
    for image in range(6):
        others = [row for row in range(12) if row % 6 != image]
        of_others = weights[others].mean(dim=0).clamp_min(MIN_SHARE)
        torch.testing.assert_close(left_out[image], -(probabilities[image] @ of_others).log().float())


def test_a_single_image_has_a_finite_ratio() -> None:
    ratio = ClassRatio(N_CLASSES)
    assert torch.isfinite(ratio.fit(torch.randn(1, N_CLASSES), 1)).all()

"""The defect head: small networks that tell synthetic defects from normal features at each place of an image.

It sees the features of a frozen backbone, so that it is trained in seconds. Learning from synthetic defects is from
Zavrtanik et al., "DRAEM", 2021; a discriminator of frozen features is from Liu et al., "SimpleNet", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.data.synthetic_defects import add_defects
from oddlens.models.pretrained.base import MAX_BATCH, PretrainedModel

N_NETWORKS = 2  # each is trained on the images of one part, and shows how images look to a network that is new to them
HIDDEN, LEAK = 64, 0.1  # units of each network, and their slope for negative values
N_DEFECTIVE, MIN_DEFECTIVE = 300, 32  # images with synthetic defects, and how many they are at least if they are large
MAX_DEFECTIVE_PIXELS = 2**26  # of all these images
MAX_ROWS = 60_000  # places with defects that are learned; as many normal ones of the same images, half of other images
GAINS = (0.85, 1.15)  # range of the brightness of the images with defects, where light varies
EPOCHS, BATCH_ROWS, WARM_UP = 8, 2048, 0.3
PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
MAX_GRADIENT = 1.0  # norm of the gradient of all weights of a network, at most
MIN_DEVIATION, MAX_DEVIATIONS = 1e-3, 20.0  # of a feature; larger values are clamped in training


class Rows(NamedTuple):
    """Features of some places of some images."""

    features: Tensor  # (R, D)
    labels: Tensor  # (R,) 1 for a place with a defect, else 0
    parts: Tensor  # (R,) the part of the training images that the image belongs to


class DefectHead(nn.Module):
    """The mean logit of a defect at each place, by networks of one hidden layer.

    Args:
        shapes: channels, rows and columns of the features at each depth; finer ones than the grid are not used.
        grid: rows and columns of the places.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.depths = [i for i, shape in enumerate(shapes) if shape[1:] <= grid]
        self.channels = [shapes[i][0] for i in self.depths]
        width = N_NETWORKS * HIDDEN
        self.enter = nn.ModuleList(nn.Conv2d(count, width, 1, bias=i == 0) for i, count in enumerate(self.channels))
        self.leave = nn.Conv2d(width, N_NETWORKS, 1, groups=N_NETWORKS)
        self.requires_grad_(False)  # PyTorch's own way

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Features (N, C_d, rows_d, columns_d) of each depth -> logits (N, networks, rows, columns)."""
        hidden = [self.resize(enter(features[i])) for i, enter in zip(self.depths, self.enter, strict=True)]
        logits: Tensor = self.leave(F.leaky_relu(torch.stack(hidden).sum(dim=0), LEAK))
        return logits

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Mean logits (N, rows, columns)."""
        return self.logits(features).mean(dim=1)

    def resize(self, values: Tensor) -> Tensor:
        """Resize (N, C, rows_d, columns_d) bilinearly to (N, C, rows, columns)."""
        return F.interpolate(values, size=self.grid, mode="bilinear", align_corners=False)

    def fit(
        self, model: PretrainedModel, images: Tensor, photographs: Tensor, normal: Sequence[Sequence[Tensor]], seed: int
    ) -> Tensor | None:
        """Train on synthetic defects in the pixels (n, H, W, C), whose own features come in batches.

        `photographs` (n,) says which photograph each image is, or is a tile of: each is learned by one network. Returns
        the logits (n, rows, columns) by the networks that did not learn them; None where there is nothing to learn.
        """
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.unique(photographs, return_inverse=True)[1]
        order = torch.randperm(int(numbers.max()) + 1, generator=generator).to(images.device)
        parts = order[numbers] % N_NETWORKS
        batches = [
            *self.defective_rows(model, images, parts, generator),
            *self.normal_rows(model, normal, parts, generator),
        ]
        rows = Rows(*(torch.cat(values) for values in zip(*batches, strict=True)))
        if any(
            not (rows.labels[rows.parts == number] == label).any() for number in range(N_NETWORKS) for label in (0, 1)
        ):
            return None
        self.train_networks(rows, generator)
        logits = torch.cat([self.logits(features) for features in normal])
        own = F.one_hot(parts, N_NETWORKS)[:, :, None, None]
        return (logits * (1 - own)).sum(dim=1) / (N_NETWORKS - 1)

    def defective_rows(
        self, model: PretrainedModel, images: Tensor, parts: Tensor, generator: torch.Generator
    ) -> list[Rows]:
        """Places with synthetic defects and, away from them, without, in batches of images."""
        count = max(MIN_DEFECTIVE, min(N_DEFECTIVE, MAX_DEFECTIVE_PIXELS // images[0, ..., 0].numel()))
        order = torch.randperm(len(images), generator=generator)
        hosts = order.repeat(-(-count // len(order)))[:count].to(images.device)
        pixels, masks = add_defects(images[hosts].cpu().numpy(), generator.initial_seed(), model.spec.value_max)
        targets = torch.cat(
            [
                F.adaptive_max_pool2d(mask.to(model.roi) * model.roi, self.grid) * model.places
                for mask in torch.split(torch.from_numpy(masks), MAX_BATCH)
            ]
        )
        far = (F.max_pool2d(targets, 3, 1, 1) == 0) * model.places
        shares = MAX_ROWS * (targets / targets.sum().clamp_min(1) + far / far.sum().clamp_min(1))
        gains = torch.ones(len(hosts), 1, 1, 1)
        if model.light_varies:
            gains.uniform_(*GAINS, generator=generator)
        rows, start = [], 0
        for batch in model.batches(torch.from_numpy(pixels).to(images.device), MAX_BATCH):
            part = slice(start, start + len(batch))
            features = model.describe((batch * gains[part].to(batch)).clamp(max=1.0))
            rows.append(self.draw(features, targets[part], parts[hosts[part]], shares[part], generator))
            start += len(batch)
        return rows

    def normal_rows(
        self, model: PretrainedModel, normal: Sequence[Sequence[Tensor]], parts: Tensor, generator: torch.Generator
    ) -> list[Rows]:
        """Places of the images themselves, in their batches."""
        shares = 0.5 * MAX_ROWS / (len(parts) * model.n_places) * model.places
        batch_parts = torch.split(parts, [len(features[0]) for features in normal])
        return [
            self.draw(features, torch.zeros_like(share), part, share, generator)
            for features, part in zip(normal, batch_parts, strict=True)
            for share in [shares.expand(len(part), *self.grid)]
        ]

    def draw(
        self, features: Sequence[Tensor], targets: Tensor, parts: Tensor, shares: Tensor, generator: torch.Generator
    ) -> Rows:
        """Rows of places of a batch (N, rows, columns), each drawn with the probability `shares`."""
        drawn = torch.rand(shares.shape, generator=generator).to(shares) < shares
        values = torch.cat([self.resize(features[i]) for i in self.depths], dim=1)
        return Rows(values.movedim(1, 3)[drawn], targets[drawn], parts[:, None, None].expand_as(drawn)[drawn])

    def train_networks(self, rows: Rows, generator: torch.Generator) -> None:
        """Train each network on one part of the rows, whose features are standardized as normal ones are."""
        normal = rows.features[rows.labels == 0]
        mean, scale = normal.mean(dim=0), 1 / normal.std(dim=0).clamp_min(MIN_DEVIATION)
        for number in range(N_NETWORKS):
            of_part = rows.parts == number
            features = ((rows.features[of_part] - mean) * scale).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
            first, bias, second, last = train_network(features, rows.labels[of_part], generator)
            units = slice(number * HIDDEN, (number + 1) * HIDDEN)
            weights = first.T * scale
            for depth, weight in enumerate(torch.split(weights[:, :, None, None], self.channels, dim=1)):
                self.get_parameter(f"enter.{depth}.weight")[units] = weight
            self.get_parameter("enter.0.bias")[units] = bias - weights @ mean
            self.get_parameter("leave.weight")[number, :, 0, 0] = second
            self.get_parameter("leave.bias")[number] = last


def train_network(
    features: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train a network on features (R, D) with labels (R,): weights (D, H), bias (H,), weights (H,), bias ()."""
    dims, device = features.shape[1], features.device
    sizes: list[tuple[tuple[int, ...], float]] = [((dims, HIDDEN), dims**-0.5), ((HIDDEN,), 0.0)]
    sizes += [((HIDDEN,), HIDDEN**-0.5), ((), 0.0)]
    weights = [(size * torch.randn(shape, generator=generator)).to(device) for shape, size in sizes]
    velocities = [torch.zeros_like(weight) for weight in weights]
    n_steps, step = EPOCHS * -(-len(features) // BATCH_ROWS), 0
    for _ in range(EPOCHS):
        order = torch.randperm(len(features), generator=generator).to(device)
        for index in torch.split(order, BATCH_ROWS):
            leaves = [weight.detach().requires_grad_() for weight in weights]
            with torch.enable_grad():
                hidden = F.leaky_relu(features[index] @ leaves[0] + leaves[1], LEAK)
                loss = F.binary_cross_entropy_with_logits(hidden @ leaves[2] + leaves[3], labels[index])
            rate = PEAK_RATE * one_cycle((step + 0.5) / n_steps)
            gradients = torch.autograd.grad(loss, leaves)
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            factor = (MAX_GRADIENT / norm).clamp(max=1.0)
            for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
                velocity.mul_(MOMENTUM).add_(factor * gradient + WEIGHT_DECAY * weight)
                weight -= rate * velocity
            step += 1
    return weights[0], weights[1], weights[2], weights[3]


def one_cycle(progress: float) -> float:
    """Factor of the learning rate at a progress in 0..1: a linear rise, then a linear fall to 0."""
    return progress / WARM_UP if progress < WARM_UP else (1 - progress) / (1 - WARM_UP)

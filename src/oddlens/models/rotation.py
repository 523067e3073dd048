"""The rotation family: features of a network trained to classify rotations of normal images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import RotationSettings
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.layers import BatchNorm, ResizeTo, covariance_eigh, drop_self_distance, fast_bf16
from oddlens.models.registry import register_family

N_ROTATIONS = 4  # by 0, 90, 180 and 270 degrees: the classes
LABEL_SMOOTHING = 0.1
WHITENING_EPSILON = 5e-4  # added to the eigenvalues of the patches' covariance
MAX_SHIFT = 2  # pixels, of training images
MIDDLE_WEIGHT = 0.6  # of the middle features' log-distances, relative to the deep ones'
MAX_WHITENING_IMAGES = 2000  # training images whose patches give the first layer
MIN_USEFUL_ACCURACY = 0.6  # on held-out images; below it the scores mean little. Chance is 0.25


@register_family(
    settings=RotationSettings,
    default_training=TrainingSettings(
        epochs=120, epoch_images=512, learning_rate=3e-3, optimizer="muon", schedule="linear"
    ),
)
class Rotation(GradientModel):
    """A small convolutional network that classifies rotations (Gidaris et al., ICLR 2018; Golan & El-Yaniv, 2018).

    The anomaly score is the geometric mean, over the four rotations of an image, of the cosine distance of its features
    to their nearest neighbours among normal images rotated the same way (Sohn et al., ICLR 2021), at two depths of the
    network, times a small power of the inverse probability of the true rotation. With one scored rotation, it is that
    of the image as it is. There is no map: the score belongs to the whole image. The first layer is a frozen whitening
    of small patches (Jordan, 2024).
    """

    pretext_task = "rotations of held-out images are classified"

    settings: RotationSettings
    mean: Tensor  # (1, C, 1, 1)
    scaling: Tensor  # (1, C, 1, 1)
    bank: Tensor  # (M, R, D) unit features of normal images, for each of the scored rotations
    middle_bank: Tensor  # (M, R, 4 E) the same, of the middle block

    def __init__(self, settings: RotationSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        self.banks = {"bank": settings.bank, "middle_bank": settings.bank}
        side = max(16, min(settings.side, max(spec.height, spec.width)))
        self.resize = ResizeTo(spec.height, spec.width, side)
        self.register_buffer("mean", torch.zeros(1, spec.channels, 1, 1))
        self.register_buffer("scaling", torch.ones(1, spec.channels, 1, 1))
        size = 2 if spec.channels == 3 else 3
        filters = 2 * spec.channels * size * size
        self.whitening = nn.Conv2d(spec.channels, filters, size, bias=False).requires_grad_(False)
        widths = (filters, *settings.widths)
        strides = (2, 2, 2) if settings.strided else (2, 1, 1)
        self.blocks = nn.Sequential(*(Block(widths[i], widths[i + 1], strides[i]) for i in range(3)))
        self.head = nn.Linear(widths[-1], N_ROTATIONS)
        self.register_buffer("bank", torch.zeros(1, settings.scored_rotations, widths[3]))
        self.register_buffer("middle_bank", torch.zeros(1, settings.scored_rotations, 4 * widths[2]))

    # -- training ---------------------------------------------------------------------------------

    def prepare(self, images: Tensor, seed: int) -> None:
        """Estimate mean and scale of the pixels and the whitening of small patches, the frozen first layer."""
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        sample = images[order[:MAX_WHITENING_IMAGES]]
        batch = torch.cat([self.resize(part) for part in self.batches(sample)])
        self.mean.copy_(batch.mean(dim=(0, 2, 3), keepdim=True))
        self.scaling.copy_(1 / (batch.std(dim=(0, 2, 3), keepdim=True) + 1e-3))
        self.whitening.weight.copy_(whitening_filters(self.normalize(batch), self.whitening.kernel_size[0]))

    def augment(self, batch: Tensor) -> tuple[Tensor, ...]:
        """A batch (N, C, H, W) resized, normalized, and randomly shifted and mirrored."""
        views = random_shift(self.normalize(self.resize(batch)), MAX_SHIFT)
        if self.settings.mirror:
            mirrored = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
            views = torch.where(mirrored, views.flip(3), views)
        return (views,)

    def augmented_loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Cross-entropy of the four rotations of a batch (N, C, S, S)."""
        (views,) = inputs
        logits: Tensor = self.head(self.features(torch.cat(rotations(views)))[0])
        targets = torch.arange(N_ROTATIONS, device=views.device).repeat_interleave(len(views))
        return F.cross_entropy(logits.float(), targets, label_smoothing=LABEL_SMOOTHING)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Store the features of a sample of the training images in the banks."""
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        sample = images[order[: self.settings.bank]]
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=fast_bf16(images.device)):
            features = [self.views(batch, self.settings.scored_rotations)[:2] for batch in self.batches(sample)]
        deep, middle = (torch.cat(parts).float() for parts in zip(*features, strict=True))
        self.bank, self.middle_bank = F.normalize(deep, dim=2), F.normalize(middle, dim=2)

    def n_closed_form_images(self, count: int) -> int:
        """Number of images in the bank."""
        return min(count, self.settings.bank)

    # -- scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W)."""
        deep, middle, logits = self.views(batch, self.settings.scored_rotations)
        deep_distance = self.log_distance(F.normalize(deep, dim=2), self.bank)
        middle_distance = self.log_distance(F.normalize(middle, dim=2), self.middle_bank)
        surprise = -torch.diagonal(logits.log_softmax(dim=2), dim1=1, dim2=2)
        weight = self.settings.surprise
        logs = deep_distance + MIDDLE_WEIGHT * middle_distance + weight * surprise
        logs = logs / max(1.0, 2 * weight)  # with a large weight, the exponential would overflow
        return ModelOutput(torch.exp(logs.mean(dim=1)), None, None)

    def log_distance(self, features: Tensor, bank: Tensor) -> Tensor:
        """Log mean squared distance (N, R) of unit features (N, R, D) to their neighbours in a bank (M, R, D)."""
        similarity = torch.einsum("ntd,mtd->ntm", features, bank)
        count = min(self.settings.neighbours + self.excludes_self, len(bank))
        nearest = similarity.topk(count, dim=2).indices
        neighbours = bank[nearest, torch.arange(bank.shape[1], device=bank.device)[:, None]]  # (N, R, k, D)
        squared = (features[:, :, None] - neighbours).square().sum(dim=3)  # 1 - cosine would lose digits
        if self.excludes_self and count > 1:
            squared = drop_self_distance(squared.sort(dim=2).values)
        return torch.log(squared.mean(dim=2) + 1e-3)  # keeps images of the bank from a score of minus infinity

    def views(self, batch: Tensor, count: int = N_ROTATIONS) -> tuple[Tensor, Tensor, Tensor]:
        """Deep features (N, R, D), middle ones (N, R, 4 E) and logits (N, R, 4) of the first R rotations of a batch."""
        rotated = rotations(self.normalize(self.resize(batch)))[:count]
        if torch.compiler.is_exporting():  # a quarter of the operations
            together = self.features(torch.cat(rotated))
            deep, middle = (part.reshape(count, -1, part.shape[1]).transpose(0, 1) for part in together)
        else:
            deep, middle = (
                torch.stack(parts, dim=1) for parts in zip(*(self.features(view) for view in rotated), strict=True)
            )
        return deep, middle, self.head(deep)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, S, S) -> global maxima of the last block (N, D), and quadrant means of the middle block (N, 4 E)."""
        early, middle, late = self.blocks
        inner = middle(early(F.gelu(self.whitening(images), approximate="tanh")))
        return late(inner).amax(dim=(2, 3)), quadrant_means(inner)

    def normalize(self, batch: Tensor) -> Tensor:
        """Normalize (N, C, H, W) to mean 0 and standard deviation 1 over the training images."""
        return (batch - self.mean) * self.scaling

    def pretext_accuracy(self, images: Tensor) -> tuple[float, float]:
        """Share of quarter rotations of pixels (N, H, W, C) that the network classifies correctly, and by chance."""
        correct = [
            self.views(batch)[2].argmax(dim=2) == torch.arange(N_ROTATIONS, device=batch.device)
            for batch in self.batches(images)
        ]
        return float(torch.cat(correct).float().mean()), 1 / N_ROTATIONS

    def remark(self, images: Tensor) -> str | None:
        """Whether rotations carry information for held-out pixels (N, H, W, C)."""
        if not is_rotation_symmetric(self.roi.bool().cpu().numpy()):
            return "the region of interest alone reveals how an image was rotated: prefer another detector"
        accuracy, chance = self.pretext_accuracy(images)
        remark = f"{self.pretext_task} with {accuracy:.0%} accuracy (chance {chance:.0%})"
        if accuracy >= MIN_USEFUL_ACCURACY:
            return remark
        advice = f"the {self.settings.family} detector is of little use here; prefer another"
        return f"{remark}: rotated, they look alike, so {advice}"


class Block(nn.Module):
    """Two 3x3 convolutions with normalization and GELU; the first one halves the size, by its stride or by pooling.

    Pooling is more accurate and costs four times as much: too much at full resolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(BatchNorm(outputs) for _ in range(2))

    def forward(self, batch: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H // 2, W // 2)."""
        pooled = self.first(batch)
        if self.first.stride == (1, 1):
            pooled = F.max_pool2d(pooled, 2)
        inner = F.gelu(self.norms[0](pooled), approximate="tanh")
        return F.gelu(self.norms[1](self.second(inner)), approximate="tanh")


def quadrant_means(batch: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4 C): means over the four quadrants, which share a middle row and column."""
    rows, columns = (batch.shape[2] + 1) // 2, (batch.shape[3] + 1) // 2
    halves = (batch[:, :, :rows], batch[:, :, -rows:])
    parts = [part for half in halves for part in (half[:, :, :, :columns], half[:, :, :, -columns:])]
    return torch.cat([part.mean(dim=(2, 3)) for part in parts], dim=1)


def is_rotation_symmetric(roi: npt.NDArray[np.bool_] | None) -> bool:
    """Whether a region of interest (H, W) does not reveal how an image was rotated."""
    return roi is None or bool(roi.all()) or (roi.shape[0] == roi.shape[1] and bool((roi == np.rot90(roi)).all()))


def rotations(batch: Tensor) -> list[Tensor]:
    """A batch (N, C, S, S) rotated by 0, 90, 180 and 270 degrees."""
    transposed = batch.transpose(2, 3)
    return [batch, transposed.flip(2), batch.flip((2, 3)), transposed.flip(3)]


def random_shift(batch: Tensor, max_shift: int) -> Tensor:
    """Shift each image of (N, C, S, S) by up to `max_shift` pixels at random; edges are reflected."""
    count, _, side, _ = batch.shape
    padded = F.pad(batch, (max_shift,) * 4, mode="reflect").permute(0, 2, 3, 1)
    starts = torch.randint(0, 2 * max_shift + 1, (2, count, 1), device=batch.device)
    rows, columns = starts + torch.arange(side, device=batch.device)
    index = torch.arange(count, device=batch.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def whitening_filters(batch: Tensor, size: int) -> Tensor:
    """Filters (2 C size^2, C, size, size) with uncorrelated outputs on a batch (N, C, S, S), and their negatives."""
    channels = batch.shape[1]
    patches = F.unfold(batch, size, stride=2).transpose(1, 2).reshape(-1, channels * size**2)
    eigenvalues, eigenvectors = covariance_eigh(patches - patches.mean(dim=0))
    filters = (eigenvectors / torch.sqrt(eigenvalues.clamp(min=0) + WHITENING_EPSILON)).T.reshape(
        -1, channels, size, size
    )
    return torch.cat([filters, -filters])

"""The transforms family: a network that can tell how a normal picture was turned knows what normal is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import TransformsSettings
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.layers import BatchNorm, ResizeTo, drop_self_distance, fast_bf16

N_ROTATIONS = 4  # quarter turns, 0 to 3: the classes
SMOOTHING = 0.1  # of the labels
MAX_SHIFT = 2  # pixels by which training pictures are moved at most
MIDDLE_WEIGHT = 0.6  # weight of the middle features' log-distances beside the deep ones'
MAX_WHITENING_IMAGES = 2000  # training images whose patches make the first layer
MIN_USEFUL_ACCURACY = 0.6  # accuracy on held-out images below which the task says little; chance is 0.25


class Rotation(GradientModel):
    """A small convolutional network that tells quarter turns apart (Gidaris et al., ICLR 2018; Golan & El-Yaniv 2018).

    The anomaly score is the geometric mean, over the four turns of a picture, of the distance of its features to
    their nearest among normal pictures turned the same way (cosine; Sohn et al., ICLR 2021), at two depths of the
    network, times a small power of how improbable it finds the right turn. There is no map: the score belongs to the
    whole picture. The first layer is a frozen whitening of small patches (Jordan, 2024).
    """

    settings: TransformsSettings
    mean: Tensor  # (1, C, 1, 1)
    scaling: Tensor  # (1, C, 1, 1)
    bank: Tensor  # (M, 4, D) unit features of normal pictures, a row for each turn
    middle_bank: Tensor  # (M, 4, 4 E) the same of the middle block

    def __init__(self, settings: TransformsSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        self.banks = {"bank": settings.bank, "middle_bank": settings.bank}
        side = max(16, min(settings.side, max(spec.height, spec.width)))
        self.resize = ResizeTo(spec.height, spec.width, side)
        self.register_buffer("mean", torch.zeros(1, spec.channels, 1, 1))
        self.register_buffer("scaling", torch.ones(1, spec.channels, 1, 1))
        reach = 2 if spec.channels == 3 else 3
        filters = 2 * spec.channels * reach * reach
        self.whitening = nn.Conv2d(spec.channels, filters, reach, bias=False).requires_grad_(False)
        widths = (filters, *settings.widths)
        strides = (2, 2, 2) if settings.strided else (2, 1, 1)
        self.blocks = nn.Sequential(*(Block(widths[i], widths[i + 1], strides[i]) for i in range(3)))
        self.head = nn.Linear(widths[-1], N_ROTATIONS)
        self.register_buffer("bank", torch.zeros(1, N_ROTATIONS, widths[3]))
        self.register_buffer("middle_bank", torch.zeros(1, N_ROTATIONS, 4 * widths[2]))

    # -- learning ---------------------------------------------------------------------------------

    def prepare(self, images: Tensor, seed: int) -> None:
        """Centre and scale the pixels, and whiten small patches: the frozen first layer."""
        chosen = images[
            torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MAX_WHITENING_IMAGES]
        ]
        batch = torch.cat([self.resize(part) for part in self.batches(chosen)])
        self.mean.copy_(batch.mean(dim=(0, 2, 3), keepdim=True))
        self.scaling.copy_(1 / (batch.std(dim=(0, 2, 3), keepdim=True) + 1e-3))
        self.whitening.weight.copy_(whitening_filters(self.centred(batch), self.whitening.kernel_size[0]))

    def loss(self, batch: Tensor) -> Tensor:
        """Cross-entropy of the turn, over all four turns of a batch (N, C, H, W) that is shifted and mirrored."""
        pictures = random_shift(self.centred(self.resize(batch)), MAX_SHIFT)
        if self.settings.mirror:
            mirrored = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
            pictures = torch.where(mirrored, pictures.flip(3), pictures)
        logits: Tensor = self.head(self.features(torch.cat(rotations(pictures)))[0])
        right = torch.arange(N_ROTATIONS, device=batch.device).repeat_interleave(len(batch))
        return F.cross_entropy(logits.float(), right, label_smoothing=SMOOTHING)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Keep the features of some training images as the banks of normal ones."""
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        chosen = images[order[: self.settings.bank]]
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=fast_bf16(images.device)):
            seen = [self.views(batch)[:2] for batch in self.batches(chosen)]
        deep, middle = (torch.cat(parts).float() for parts in zip(*seen, strict=True))
        self.bank, self.middle_bank = F.normalize(deep, dim=2), F.normalize(middle, dim=2)

    def n_closed_form_images(self, count: int) -> int:
        """The bank's."""
        return min(count, self.settings.bank)

    # -- scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W)."""
        deep, middle, logits = self.views(batch)
        far = self.log_distance(F.normalize(deep, dim=2), self.bank)
        strange = self.log_distance(F.normalize(middle, dim=2), self.middle_bank)
        surprise = -torch.diagonal(logits.log_softmax(dim=2), dim1=1, dim2=2)
        weight = self.settings.surprise
        logs = (far + MIDDLE_WEIGHT * strange + weight * surprise) / max(
            1.0, 2 * weight
        )  # a large weight overflows otherwise
        return ModelOutput(torch.exp(logs.mean(dim=1)), None, None)

    def log_distance(self, features: Tensor, bank: Tensor) -> Tensor:
        """Unit features (N, 4, D) -> (N, 4): log mean squared distance to the nearest in a bank (M, 4, D)."""
        similar = torch.einsum("ntd,mtd->ntm", features, bank)
        count = min(self.settings.neighbours + self.excludes_self, len(bank))
        nearest = similar.topk(count, dim=2).indices
        found = bank[nearest, torch.arange(N_ROTATIONS, device=bank.device)[:, None]]  # (N, 4, k, D)
        squared = (features[:, :, None] - found).square().sum(dim=3)  # anew: 1 - cosine loses digits
        if self.excludes_self and count > 1:
            squared = drop_self_distance(squared.sort(dim=2).values)
        return torch.log(squared.mean(dim=2) + 1e-3)  # the bank's own pictures are not infinitely normal

    def views(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> of its four turns: deep features (N, 4, D), middle ones (N, 4, 4 E), logits (N, 4, 4)."""
        seen = [self.features(view) for view in rotations(self.centred(self.resize(batch)))]
        deep, middle = (torch.stack(parts, dim=1) for parts in zip(*seen, strict=True))
        return deep, middle, self.head(deep)

    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, S, S) -> the last block's maxima (N, D), and the middle block's means over quarters (N, 4 E)."""
        early, middle, late = self.blocks
        inner = middle(early(F.gelu(self.whitening(pictures), approximate="tanh")))
        return late(inner).amax(dim=(2, 3)), quadrant_means(inner)

    def centred(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) in 0..1 -> the same with mean 0 and deviation 1 over the training images."""
        return (batch - self.mean) * self.scaling

    def accuracy(self, images: Tensor) -> float:
        """The share of turns of pixels (N, H, W, C) that the network tells right; 0.25 by chance."""
        right = [
            self.views(batch)[2].argmax(dim=2) == torch.arange(N_ROTATIONS, device=batch.device)
            for batch in self.batches(images)
        ]
        return float(torch.cat(right).float().mean())

    def remark(self, images: Tensor) -> str | None:
        """Whether turning means anything for these pictures, judged on pixels (N, H, W, C) that it did not learn."""
        if not is_rotation_symmetric(self.roi.bool().cpu().numpy()):
            return "the region of interest by itself tells how a picture was turned: prefer another detector"
        accuracy = self.accuracy(images)
        told = f"quarter turns of held-out pictures are told apart with {accuracy:.0%} accuracy (chance 25%)"
        if accuracy >= MIN_USEFUL_ACCURACY:
            return told
        return f"{told}: they look alike turned, so the transforms detector says little about them; prefer another"


class Block(nn.Module):
    """Two 3x3 convolutions with normalisation and GELU; the first one halves the picture, by its stride or by pooling.

    Pooling loses less and costs four times as much: too much at full resolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(BatchNorm(after) for _ in range(2))

    def forward(self, batch: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H // 2, W // 2)."""
        halved = self.first(batch)
        if self.first.stride == (1, 1):
            halved = F.max_pool2d(halved, 2)
        inner = F.gelu(self.norms[0](halved), approximate="tanh")
        return F.gelu(self.norms[1](self.second(inner)), approximate="tanh")


def quadrant_means(batch: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4 C): means over the four quarters, which share the middle row and column if there is one."""
    rows, columns = (batch.shape[2] + 1) // 2, (batch.shape[3] + 1) // 2
    halves = (batch[:, :, :rows], batch[:, :, -rows:])
    parts = [part for half in halves for part in (half[:, :, :, :columns], half[:, :, :, -columns:])]
    return torch.cat([part.mean(dim=(2, 3)) for part in parts], dim=1)


def is_rotation_symmetric(roi: npt.NDArray[np.bool_] | None) -> bool:
    """Whether a region of interest (H, W) does not give away how a picture was turned."""
    return roi is None or bool(roi.all()) or (roi.shape[0] == roi.shape[1] and bool((roi == np.rot90(roi)).all()))


def rotations(batch: Tensor) -> list[Tensor]:
    """(N, C, S, S) -> the batch as it is, then turned by one, two and three quarters."""
    across = batch.transpose(2, 3)
    return [batch, across.flip(2), batch.flip((2, 3)), across.flip(3)]


def random_shift(batch: Tensor, reach: int) -> Tensor:
    """(N, C, S, S) -> each picture moved by up to `reach` pixels, its edges reflected."""
    count, _, side, _ = batch.shape
    padded = F.pad(batch, (reach,) * 4, mode="reflect").permute(0, 2, 3, 1)
    starts = torch.randint(0, 2 * reach + 1, (2, count, 1), device=batch.device)
    rows, columns = starts + torch.arange(side, device=batch.device)
    pictures = torch.arange(count, device=batch.device)[:, None, None]
    return padded[pictures, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def whitening_filters(batch: Tensor, reach: int) -> Tensor:
    """(N, C, S, S) -> (2 C reach^2, C, reach, reach): filters whose outputs are uncorrelated, and their negatives."""
    channels = batch.shape[1]
    patches = F.unfold(batch, reach, stride=2).transpose(1, 2).reshape(-1, channels * reach**2)
    patches = patches - patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / torch.sqrt(values.clamp(min=0) + 5e-4)).T.reshape(-1, channels, reach, reach)
    return torch.cat([filters, -filters])

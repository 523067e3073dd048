"""The dictionary family: nearest neighbours of images in a space of pooled patch features; fitted in closed form.

Patches are contrast-normalized, whitened and compared with the atoms of a dictionary learned by spherical k-means
(Coates & Ng, "Learning feature representations with k-means", 2012). The responses are averaged over parts of the
image; the anomaly score is the standardized distance of these averages to those of the nearest normal images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import DictionarySettings
from oddlens.models.base import Model, ModelOutput
from oddlens.models.memory_bank import MemoryBank
from oddlens.models.patches import PatchDictionary, patch_variance
from oddlens.models.registry import register_family

N_PATCHES = 50_000  # from which the atoms are learned
TOLERATED_DEVIATIONS = (0.0, 2.5)  # standard deviations that patches and light may deviate before they count
MIN_LOG_STD = 0.05  # lower bound, as log distances of constant images do not vary
IMAGE_DIMS, LIGHT_DIMS, PLACE_DIMS = 128, 64, 32  # principal axes of each kind of descriptor
PLACE_SCALE = 3.0  # distance from the centre to the edge, in units of the place descriptor
WINDOW, WINDOW_STRIDE = 6, 3  # in responses: side of the window of a place, and distance between places
MAX_PLACE_ROWS = 2000  # in the bank of places
MAX_PLACE_IMAGES = 200  # that fill the bank of places; as many give the reference distances
MAX_BANK_IMAGES = 100_000  # in the banks of images, however short their descriptors are
MAX_REFERENCE_IMAGES = 2000  # on which the reference distance is measured
MAX_GAIN = 1.5  # by which an image is made brighter or darker, at most, where light varies
MIN_BRIGHTNESS = 1e-3  # of a black image


@register_family(settings=DictionarySettings)
class Dictionary(Model):
    """Whitened patch dictionary with pooled features and nearest neighbours; see `DictionarySettings`.

    The descriptors of an image are the responses of its patches, averaged over `cells` x `cells` parts, and the light
    and contrast of those parts; that of a place is the mean response around it. The log distance of each descriptor to
    its nearest normal neighbours is standardized by the distances among normal images. The map shows the places.
    """

    settings: DictionarySettings
    usual: Tensor  # (2, 2) mean and standard deviation of the log distance: of patches, of light
    usual_places: Tensor  # (2, rows, columns) the same, for each place
    usual_brightness: Tensor  # (1,) mean of the training images, where light varies

    def __init__(self, settings: DictionarySettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        min_side, k = min(spec.height, spec.width), settings.neighbours
        sizes = [min(size, min_side // 2 + 1) for size in settings.patch_sizes]
        stride = max(1, min_side // 64)
        self.atoms = nn.ModuleList(PatchDictionary(settings.atoms, spec.channels, size, stride) for size in sizes)
        rows, columns = ((side - sizes[0]) // stride + 1 for side in (spec.height, spec.width))  # of responses
        self.cells = min(settings.cells, (min_side - max(sizes)) // stride + 1)
        self.window = min(WINDOW, rows, columns)
        self.grid = [(side - self.window) // WINDOW_STRIDE + 1 for side in (rows, columns)]
        self.step = WINDOW_STRIDE * stride  # pixels from place to place
        self.receptive_field = stride * (self.window - 1) + sizes[0]  # side in pixels of the receptive field of a place
        n_cells = self.cells**2
        self.pictures = MemoryBank(2 * settings.atoms * len(sizes) * n_cells, IMAGE_DIMS, k)
        self.light = MemoryBank((spec.channels + 2) * n_cells, LIGHT_DIMS, k)
        self.places = MemoryBank(2 * settings.atoms, PLACE_DIMS, k, extra_dims=2, floor=settings.place_floor)
        max_rows = self.max_bank_images() * (2 if settings.mirror else 1)
        self.banks = {"pictures.rows": max_rows, "light.rows": max_rows, "places.rows": MAX_PLACE_ROWS}
        self.register_buffer("usual", torch.zeros(2, 2))
        self.register_buffer("usual_places", torch.zeros(2, *self.grid))
        if settings.light == "varies":
            self.register_buffer("usual_brightness", torch.ones(1))

    # -- fitting ----------------------------------------------------------------------------------

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Learn atoms, axes and banks from the training pixels (N, H, W, C)."""
        generator = torch.Generator().manual_seed(seed)
        if self.settings.light == "varies":
            self.usual_brightness.copy_(torch.cat([brightness(batch) for batch in self.batches(images)]).mean())
        for atoms in self.dictionaries():
            atoms.fit(self.draw_patches(images, atoms.size, generator), generator)
        order = torch.randperm(len(images), generator=generator)
        if self.settings.score == "pooled":
            self.fit_image_banks(images[order[: self.max_bank_images()]])
        self.fit_place_bank(images[order[: 2 * MAX_PLACE_IMAGES]], generator)

    def max_bank_images(self) -> int:
        """Number of images whose descriptors fit into the banks."""
        copies = 2 if self.settings.mirror else 1
        image_bytes = 4 * (self.pictures.rows.shape[1] + self.light.rows.shape[1]) * copies
        return min(MAX_BANK_IMAGES, max(2, int(self.settings.bank_megabytes * 2**20) // image_bytes))

    def fit_image_banks(self, images: Tensor) -> None:
        """Fill the banks of whole images, and measure the reference distances between them."""
        descriptors = self.all_descriptors(images)
        mirrored = self.all_descriptors(images, mirror=True) if self.settings.mirror else None
        for kind, bank in enumerate((self.pictures, self.light)):
            bank.fit_axes(descriptors[kind])
            rows = bank.project(descriptors[kind])
            bank.store(rows if mirrored is None else torch.cat([rows, bank.project(mirrored[kind])]))
            logs = torch.cat([bank(part, skip=1) for part in torch.split(rows[:MAX_REFERENCE_IMAGES], 64)])
            self.usual[:, kind] = torch.stack([logs.mean(), log_std(logs, 0)])

    def all_descriptors(self, images: Tensor, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
        """`descriptors` of all training pixels (N, H, W, C), or of their mirror images."""
        batches = (batch.flip(3) if mirror else batch for batch in self.small_batches(images))
        patches, light = zip(*(self.descriptors(batch) for batch in batches), strict=True)
        return torch.cat(patches), torch.cat(light)

    def fit_place_bank(self, images: Tensor, generator: torch.Generator) -> None:
        """Fill the bank of places from half of the images, and measure the reference distances on the others.

        A single image serves for both.
        """
        half = (len(images) + 1) // 2
        means = torch.cat(list(self.place_means(images[:half])))
        order = torch.randperm(means.shape[:3].numel(), generator=generator)
        self.places.fit_axes(means.flatten(0, 2)[order[: 8 * MAX_PLACE_ROWS]])
        self.places.store(self.project_places(means).flatten(0, 2)[order[:MAX_PLACE_ROWS]])
        reference_images = images[half:] if len(images) > 1 else images
        logs = torch.cat([self.place_distances(means) for means in self.place_means(reference_images)])
        if self.settings.place == 0:  # a texture looks the same everywhere
            logs = logs.reshape(-1, 1, 1)
        usual = torch.stack([logs.mean(dim=0), log_std(logs, 0)])
        self.usual_places.copy_(usual.expand_as(self.usual_places))

    def place_means(self, images: Tensor) -> Iterator[Tensor]:
        """`window_means` of training pixels (N, H, W, C), batch by batch."""
        return (self.window_means(self.first_responses(batch)) for batch in self.small_batches(images))

    def small_batches(self, images: Tensor) -> Iterator[Tensor]:
        """Batches small enough for their responses to fit into memory."""
        return self.batches(images, max(1, min(64, 2**18 // (self.spec.height * self.spec.width))))

    def place_distances(self, means: Tensor) -> Tensor:
        """Log distance (N, rows, columns) of each place to the nearest normal ones, from its window's means."""
        projected = self.project_places(means)
        return self.places(projected.flatten(0, 2)).reshape(projected.shape[:3])  # type: ignore[no-any-return]

    def draw_patches(self, images: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Draw patches (P, C * size * size) at random positions in random images."""
        n_per_image = -(-N_PATCHES // len(images))
        sample = images[torch.randperm(len(images), generator=generator)[:N_PATCHES]]
        offsets, drawn = torch.arange(size), []
        for batch in self.batches(sample):
            gain = self.gain(batch)
            batch = batch if gain is None else batch * gain[:, None, None, None]
            index = torch.arange(len(batch))[:, None, None, None]
            shape = (len(batch), n_per_image, 1, 1)
            top, left = (torch.randint(side - size + 1, shape, generator=generator) for side in batch.shape[2:])
            patches = batch[index, :, top + offsets[:, None], left + offsets]  # (N, n_per_image, size, size, C)
            drawn.append(patches.permute(0, 1, 4, 2, 3).flatten(0, 1).flatten(1))
        return torch.cat(drawn)

    # -- scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map which places are anomalous."""
        responses = self.first_responses(batch)
        mean, std = self.usual_places
        evidence = F.softplus((self.place_distances(self.window_means(responses)) - mean) / std)
        anomaly_map = self.upsample_places(evidence) * self.roi
        if self.settings.score == "local":
            return ModelOutput(self.top_mean_over_roi(anomaly_map, self.settings.top_percent), anomaly_map, None)
        pooled, light = self.descriptors(batch, responses)
        logs = torch.stack([self.pictures(self.pictures.project(pooled)), self.light(self.light.project(light))], dim=1)
        deviations = (logs - self.usual[0]) / self.usual[1] - torch.tensor(TOLERATED_DEVIATIONS, device=logs.device)
        return ModelOutput(F.softplus(torch.logsumexp(deviations, dim=1)), anomaly_map, None)

    def dictionaries(self) -> list[PatchDictionary]:
        """The dictionaries, one for each patch size."""
        return [cast(PatchDictionary, atoms) for atoms in self.atoms]

    def first_responses(self, batch: Tensor) -> Tensor:
        """Responses of the first dictionary."""
        return self.dictionaries()[0](batch, self.gain(batch))  # type: ignore[no-any-return]

    def gain(self, batch: Tensor) -> Tensor | None:
        """Factor (N,) that gives each image (N, C, H, W) the usual brightness, as far as `MAX_GAIN` allows.

        None where light does not vary.
        """
        if self.settings.light == "fixed":
            return None
        gain = self.usual_brightness / brightness(batch).clamp_min(MIN_BRIGHTNESS)
        return gain.clamp(1 / MAX_GAIN, MAX_GAIN)

    def descriptors(self, batch: Tensor, responses: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Descriptors (N, features) of the patches of a batch, and those of its light and contrast."""
        first, *others = self.dictionaries()
        responses = self.first_responses(batch) if responses is None else responses
        maps = [responses, *(atoms(batch, self.gain(batch)) for atoms in others)]
        contrast = (patch_variance(batch, first.size, first.stride) + 1e-4).log()
        gradients = (batch[:, :, 1:, 1:] - batch[:, :, :-1, :-1]).square().mean(dim=1, keepdim=True)
        light = [self.cell_means(batch), self.cell_means(contrast), (self.cell_means(gradients) + 1e-5).log()]
        return torch.cat([pool_by_sign(self.cell_means, values) for values in maps], dim=1), torch.cat(light, dim=1)

    def cell_means(self, maps: Tensor) -> Tensor:
        """(N, F, h, w) -> (N, F * cells * cells): means over the parts of the image."""
        rows, columns = (part_bounds(side, self.cells) for side in maps.shape[2:])
        strips = [maps[:, :, top:bottom].mean(dim=2) for top, bottom in rows]
        return torch.cat([strip[:, :, left:right].mean(dim=2) for strip in strips for left, right in columns], dim=1)

    def window_means(self, responses: Tensor) -> Tensor:
        """(N, F, h, w) -> (N, rows, columns, 2 * F): means over a window around each place."""
        return pool_by_sign(lambda maps: F.avg_pool2d(maps, self.window, WINDOW_STRIDE), responses).permute(0, 2, 3, 1)

    def project_places(self, means: Tensor) -> Tensor:
        """(N, rows, columns, F) -> (N, rows, columns, dims + 2): projected, with the coordinates of the place."""
        projected = self.places.project(means)
        rows, columns = (torch.linspace(-1, 1, n, device=means.device) for n in self.grid)
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2)
        coordinates = coordinates * (PLACE_SCALE * self.settings.place)
        return torch.cat([projected, coordinates.expand(projected.shape[0], -1, -1, -1)], dim=3)

    def upsample_places(self, places: Tensor) -> Tensor:
        """(N, rows, columns) -> (N, H, W): bilinear between the centres of the places, constant outside them."""
        size = [n * self.step for n in self.grid]
        upsampled = F.interpolate(places[:, None], size=size, mode="bilinear", align_corners=False)
        before = max(0, self.receptive_field - self.step) // 2
        after = [side - n - before for side, n in zip((self.spec.height, self.spec.width), size, strict=True)]
        return F.pad(upsampled, (before, after[1], before, after[0]), mode="replicate")[:, 0]


def brightness(batch: Tensor) -> Tensor:
    """Mean (N,) of each image (N, C, H, W), of one axis after the other: long sums lose digits in some runtimes."""
    return batch.mean(dim=3).mean(dim=2).mean(dim=1)


def pool_by_sign(pool: Callable[[Tensor], Tensor], responses: Tensor) -> Tensor:
    """Pool positive and negative responses separately, without both in memory at full size."""
    signed, magnitude = pool(responses), pool(responses.abs())
    return torch.cat([magnitude + signed, magnitude - signed], dim=1) * 0.5


def part_bounds(side: int, parts: int) -> list[tuple[int, int]]:
    """Divide range(side) into equal parts that overlap where needed, as (start, stop)."""
    return [(side * part // parts, -(-side * (part + 1) // parts)) for part in range(parts)]


def log_std(logs: Tensor, dim: int) -> Tensor:
    """Standard deviation of log distances, at least `MIN_LOG_STD`."""
    return logs.std(dim=dim, correction=0).clamp_min(MIN_LOG_STD)

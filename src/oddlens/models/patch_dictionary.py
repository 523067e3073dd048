"""The dictionary family: pictures made of unusual patches lie far from all normal ones. No gradients.

Patches are contrast-normalised, whitened and compared with a dictionary that spherical k-means learned from them
(Coates & Ng, "Learning feature representations with k-means", 2012); what they are like is averaged over parts of the
picture, and the distance to the nearest normal pictures tells how odd it is.
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
from oddlens.models.memory_bank import MemoryBank, PatchDictionary, patch_variance

PATCHES = 50_000  # drawn to learn the atoms
TOLERATED = (0.0, 2.5)  # spreads by which patches and light must be out of the usual before they count
LEAST_SPREAD = 0.05  # of log distances: constant training images have none
DIMS, LIGHT_DIMS, PLACE_DIMS = 128, 64, 32  # principal axes kept of each kind of descriptor
PLACE_UNIT = 3.0  # distance of the middle from the edge, in the descriptor's own units
WINDOW, STEP = 6, 3  # responses around a place, and from place to place
PLACE_ROWS = 2000  # places in the local bank
PLACE_IMAGES = 200  # whose places fill it, and as many that say how far normal ones are
MOST_PICTURES = 100_000  # in the bank, however few numbers describe one
TYPICAL = 2000  # images on which the usual distance is measured


class Dictionary(Model):
    """Whitened patch dictionary with pooled features and nearest neighbours; see `DictionarySettings`.

    A picture is described by what its patches are like, on average over `cells` x `cells` parts, and by the light
    and contrast of those parts; a place by what the patches around it are like. Each description's distance to the
    nearest normal ones is standardised by what normal images reach. The map is that of the places.
    """

    settings: DictionarySettings
    usual: Tensor  # (2, 2) mean and spread of the log distance: of the patches, of the light
    usual_places: Tensor  # (2, rows, columns) the same for each place

    def __init__(self, settings: DictionarySettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        least, k = min(spec.height, spec.width), settings.neighbours
        sizes = [min(size, least // 2 + 1) for size in settings.patch_sizes]
        stride = max(1, least // 64)
        self.atoms = nn.ModuleList(PatchDictionary(settings.atoms, spec.channels, size, stride) for size in sizes)
        rows, columns = ((side - sizes[0]) // stride + 1 for side in (spec.height, spec.width))  # of responses
        self.cells = min(settings.cells, (least - max(sizes)) // stride + 1)
        self.window = min(WINDOW, rows, columns)
        self.grid = [(side - self.window) // STEP + 1 for side in (rows, columns)]
        self.step = STEP * stride  # pixels from place to place
        self.reach = stride * (self.window - 1) + sizes[0]  # pixels each way that a place looks at
        parts = self.cells**2
        self.pictures = MemoryBank(2 * settings.atoms * len(sizes) * parts, DIMS, k)
        self.light = MemoryBank((spec.channels + 2) * parts, LIGHT_DIMS, k)
        self.places = MemoryBank(2 * settings.atoms, PLACE_DIMS, k, beside=2)
        rows_each = self.most_pictures() * (2 if settings.mirror else 1)
        self.banks = {"pictures.rows": rows_each, "light.rows": rows_each, "places.rows": PLACE_ROWS}
        self.register_buffer("usual", torch.zeros(2, 2))
        self.register_buffer("usual_places", torch.zeros(2, *self.grid))

    # -- fitting ----------------------------------------------------------------------------------

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Learn atoms, axes and banks from the training pixels (N, H, W, C)."""
        generator = torch.Generator().manual_seed(seed)
        for atoms in self.learners():
            atoms.fit(self.draw_patches(images, atoms.size, generator), generator)
        order = torch.randperm(len(images), generator=generator)
        if self.settings.score == "pooled":
            self.fit_pictures(images[order[: self.most_pictures()]])
        self.fit_places(images[order[: 2 * PLACE_IMAGES]], generator)

    def most_pictures(self) -> int:
        """How many images' descriptors the bank may hold."""
        copies = 2 if self.settings.mirror else 1
        bytes_each = 4 * (self.pictures.rows.shape[1] + self.light.rows.shape[1]) * copies
        return min(MOST_PICTURES, max(2, int(self.settings.bank_megabytes * 2**20) // bytes_each))

    def fit_pictures(self, images: Tensor) -> None:
        """Fill the banks of whole pictures, and measure how far one is usually from the others."""
        whole = [self.describe(batch) for batch in self.some(images)]
        descriptions = [torch.cat([each[kind] for each in whole]) for kind in (0, 1)]
        mirrored: list[Tensor] = []
        if self.settings.mirror:
            turned = [self.describe(batch.flip(3)) for batch in self.some(images)]
            mirrored = [torch.cat([each[kind] for each in turned]) for kind in (0, 1)]
        for kind, bank in enumerate((self.pictures, self.light)):
            bank.fit_axes(descriptions[kind])
            rows = bank.project(descriptions[kind])
            bank.keep(torch.cat([rows, bank.project(mirrored[kind])]) if mirrored else rows)
            logs = torch.cat([bank(part, skip=1) for part in torch.split(rows[:TYPICAL], 64)])
            self.usual[:, kind] = torch.stack([logs.mean(), spread(logs, 0)])

    def fit_places(self, images: Tensor, generator: torch.Generator) -> None:
        """Fill the bank of places from half of the images; the others tell how far normal ones are.

        A single image has to do both.
        """
        half = (len(images) + 1) // 2
        found = torch.cat([self.around(self.first(batch)) for batch in self.some(images[:half])])
        chosen = torch.randperm(found.shape[:3].numel(), generator=generator)
        self.places.fit_axes(found.flatten(0, 2)[chosen[: 8 * PLACE_ROWS]])
        self.places.keep(self.located(found).flatten(0, 2)[chosen[:PLACE_ROWS]])
        others = [self.around(self.first(batch)) for batch in self.some(images[half:] if len(images) > 1 else images)]
        logs = torch.cat([self.place_distances(each) for each in others])
        if self.settings.place == 0:  # a texture is alike everywhere
            logs = logs.reshape(-1, 1, 1)
        usual = torch.stack([logs.mean(dim=0), spread(logs, 0)])
        self.usual_places.copy_(usual.expand_as(self.usual_places))

    def some(self, images: Tensor) -> Iterator[Tensor]:
        """Batches so small that their responses fit into memory."""
        return self.batches(images, max(1, min(64, 2**18 // (self.spec.height * self.spec.width))))

    def place_distances(self, around: Tensor) -> Tensor:
        """(N, rows, columns, F) -> (N, rows, columns): log distance of each place to the nearest normal ones."""
        located = self.located(around)
        return self.places(located.flatten(0, 2)).reshape(located.shape[:3])  # type: ignore[no-any-return]

    def draw_patches(self, images: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Patches (P, C * size * size) from random places in random images."""
        few = -(-PATCHES // len(images))
        chosen = images[torch.randperm(len(images), generator=generator)[:PATCHES]]
        reach, drawn = torch.arange(size), []
        for batch in self.batches(chosen):
            each = torch.arange(len(batch))[:, None, None, None]
            top, left = (
                torch.randint(side - size + 1, (len(batch), few, 1, 1), generator=generator) for side in batch.shape[2:]
            )
            patches = batch[each, :, top + reach[:, None], left + reach]  # (N, few, size, size, C)
            drawn.append(patches.permute(0, 1, 4, 2, 3).flatten(0, 1).flatten(1))
        return torch.cat(drawn)

    # -- scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) and say which places are unusual."""
        responses = self.first(batch)
        mean, deviation = self.usual_places
        odd = F.softplus((self.place_distances(self.around(responses)) - mean) / deviation)
        anomaly_map = self.spread_out(odd) * self.roi
        if self.settings.score == "local":
            return ModelOutput(self.top_mean_over_roi(anomaly_map, self.settings.top_percent), anomaly_map, None)
        pooled, light = self.describe(batch, responses)
        logs = torch.stack([self.pictures(self.pictures.project(pooled)), self.light(self.light.project(light))], dim=1)
        unusual = (logs - self.usual[0]) / self.usual[1] - torch.tensor(TOLERATED, device=logs.device)
        return ModelOutput(F.softplus(torch.logsumexp(unusual, dim=1)), anomaly_map, None)

    def learners(self) -> list[PatchDictionary]:
        """The dictionaries, one a patch size."""
        return [cast(PatchDictionary, atoms) for atoms in self.atoms]

    def first(self, batch: Tensor) -> Tensor:
        """The responses of the first dictionary."""
        return self.learners()[0](batch)  # type: ignore[no-any-return]

    def describe(self, batch: Tensor, responses: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> (N, features) of the patches and (N, features) of light and contrast."""
        first, *others = self.learners()
        maps = [self.first(batch) if responses is None else responses, *(atoms(batch) for atoms in others)]
        contrast = (patch_variance(batch, first.size, first.stride) + 1e-4).log()
        steps = (batch[:, :, 1:, 1:] - batch[:, :, :-1, :-1]).square().mean(dim=1, keepdim=True)
        parts = [self.parts(batch), self.parts(contrast), (self.parts(steps) + 1e-5).log()]
        return torch.cat([two_sided(self.parts, each) for each in maps], dim=1), torch.cat(parts, dim=1)

    def parts(self, maps: Tensor) -> Tensor:
        """(N, F, h, w) -> (N, F * cells * cells): means over the parts of the picture."""
        rows, columns = (bounds(side, self.cells) for side in maps.shape[2:])
        strips = [maps[:, :, top:below].mean(dim=2) for top, below in rows]
        return torch.cat([strip[:, :, left:right].mean(dim=2) for strip in strips for left, right in columns], dim=1)

    def around(self, responses: Tensor) -> Tensor:
        """(N, F, h, w) -> (N, rows, columns, 2 * F): means over a window around each place."""
        return two_sided(lambda maps: F.avg_pool2d(maps, self.window, STEP), responses).permute(0, 2, 3, 1)

    def located(self, around: Tensor) -> Tensor:
        """(N, rows, columns, F) -> (N, rows, columns, dims + 2): projected, with the place beside it."""
        projected = self.places.project(around)
        down, across = (torch.linspace(-1, 1, n, device=around.device) for n in self.grid)
        where = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=2) * (PLACE_UNIT * self.settings.place)
        return torch.cat([projected, where.expand(projected.shape[0], -1, -1, -1)], dim=3)

    def spread_out(self, places: Tensor) -> Tensor:
        """(N, rows, columns) -> (N, H, W): smooth between the places' centres, constant beyond them."""
        size = [n * self.step for n in self.grid]
        large = F.interpolate(places[:, None], size=size, mode="bilinear", align_corners=False)
        before = max(0, self.reach - self.step) // 2
        after = [side - n - before for side, n in zip((self.spec.height, self.spec.width), size, strict=True)]
        return F.pad(large, (before, after[1], before, after[0]), mode="replicate")[:, 0]


def two_sided(pool: Callable[[Tensor], Tensor], responses: Tensor) -> Tensor:
    """Pool what is positive and what is negative apart, without ever holding both at full size."""
    signed, size = pool(responses), pool(responses.abs())
    return torch.cat([size + signed, size - signed], dim=1) * 0.5


def bounds(side: int, parts: int) -> list[tuple[int, int]]:
    """Cut 0..side into equal parts, as (first, behind the last)."""
    return [(side * part // parts, -(-side * (part + 1) // parts)) for part in range(parts)]


def spread(logs: Tensor, dim: int) -> Tensor:
    """Standard deviation, never nothing."""
    return logs.std(dim=dim, correction=0).clamp_min(LEAST_SPREAD)

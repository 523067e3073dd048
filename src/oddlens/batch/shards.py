"""Shards: the parts into which a manifest of images is cut, each of which is scored as a whole by one worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oddlens.batch import remote_files
from oddlens.config.base import InputSpec
from oddlens.data.image_io import DECODERS, Pixels, decode
from oddlens.data.image_set import ImageSet
from oddlens.data.ordered_pool import OrderedPool
from oddlens.data.preprocessing import fit_to, mean_brightness
from oddlens.detector.detector import Detector
from oddlens.errors import ImageError, OddlensError, UnreadableImageError
from oddlens.inference.scoring import anomaly_scores, batch_size
from oddlens.io.digests import digest

REMOTE_READERS = 16  # threads of a worker that wait for images of other machines
CHANGED = "has changed since the manifest was made; make the manifest again with `oddlens manifest`"


@dataclass(frozen=True)
class Shard:
    """Consecutive images of a manifest, from its row `start` on; `folder` is where relative paths begin."""

    index: int
    start: int
    files: tuple[str, ...]
    sizes: tuple[int | None, ...]  # bytes; None is not checked
    versions: tuple[str | None, ...]  # see `remote_files.version`; None is not checked
    groups: tuple[str, ...] = ()  # of each image, where there are groups
    folder: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __str__(self) -> str:
        last = self.start + len(self) - 1
        return f"images {self.start} to {last} of the manifest ({self.files[0]} to {self.files[-1]})"

    @cached_property
    def digest(self) -> str:
        """The digest of its rows."""
        rows = zip(self.files, self.sizes, self.versions, self.groups or ("",) * len(self), strict=True)
        return digest(f"{row!r}\n".encode() for row in rows)


@dataclass(frozen=True, eq=False)
class ShardScores:
    """What a worker found out about a shard of N images."""

    anomaly_score: npt.NDArray[np.float64]  # (N,) nan where there is an error
    errors: dict[int, str]  # position in the shard -> why the image has no score
    brightness: npt.NDArray[np.float64] | None = None  # (N,) of `mean_brightness`, nan where there is an error


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardImages(ImageSet):
    """The images of a shard; each is compared with its row in the manifest."""

    shard: Shard

    @classmethod
    def of(cls, shard: Shard) -> ShardImages:
        """The images of a shard."""
        plain = ImageSet.from_files(shard.files, kind="")
        return cls(plain.names, plain.kinds, plain.labels, plain.images, plain.masks, shard=shard)

    def image(self, i: int, spec: InputSpec | None = None) -> Pixels:
        """One image; with `spec`, in that form, so that one which does not fit it counts as unreadable.

        Raises:
            UnreadableImageError: it cannot be read, does not fit, or is another than the manifest says.
            DataError: the place where it lies cannot be reached.
        """
        try:
            pixels = decode(read_source(self.shard, i), spec)
            return pixels if spec is None else fit_to(pixels, spec, self.names[i])
        except ImageError as error:
            raise UnreadableImageError(self.names[i], error.reason) from error


def read_source(shard: Shard, i: int) -> Path | bytes:
    """The path of an image, or the content of one at a URL; it is the one that the manifest lists.

    Raises:
        ImageError: it has changed, or does not exist any more.
        DataError: the place where it lies cannot be reached.
    """
    name, size, version = shard.files[i], shard.sizes[i], shard.versions[i]
    if remote_files.is_url(name):
        content = remote_files.read(name, size, version)
        if content is None:
            raise ImageError(name, CHANGED)
        return content
    path = Path(shard.folder, name)
    if version is not None or size is not None:
        try:
            status = path.stat()
        except (OSError, ValueError):  # the latter of a name with a null character
            return path  # decoding raises the error
        if size not in (None, status.st_size) or version not in (None, str(status.st_mtime_ns)):
            raise ImageError(name, CHANGED)
    return path


class ShardScorer:
    """A detector of one thread, from the content of an exported file named `name`, that scores shards.

    Raises:
        ArtifactError: the file is damaged, foreign, or gives other scores here than where it was written.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.detector = Detector.load(name, device="cpu", threads=1, content=content)

    @property
    def runtime(self) -> str:
        """Runtime and precision, on which the last bits of scores depend."""
        return self.detector.backend.name

    def __call__(self, shard: Shard) -> ShardScores:
        """Score a shard in the same batches as `oddlens score`, whatever else this worker scored before.

        Raises:
            DataError: the place where an image lies cannot be reached.
            ArtifactError: a score is not finite.
        """
        spec = self.detector.spec
        images = ShardImages.of(shard)
        problems, brightness = dict[int, UnreadableImageError](), list[npt.NDArray[np.float64]]()

        def measured(batches: Iterable[Pixels]) -> Iterator[Pixels]:
            for pixels in batches:
                brightness.append(mean_brightness(pixels, spec.value_max))
                yield pixels

        threads = max(REMOTE_READERS, DECODERS) if any(map(remote_files.is_url, shard.files)) else DECODERS
        with OrderedPool[None](threads) as pool:
            batches = images.batches(spec, batch_size(spec), problems=problems, pool=pool)
            scores = anomaly_scores(self.detector.backend, measured(batches))
        result, light = np.full((2, len(shard)), np.nan)
        good = [i for i in range(len(shard)) if i not in problems]
        result[good], light[good] = scores, np.concatenate([np.empty(0), *brightness])
        return ShardScores(result, {i: problems[i].reason for i in sorted(problems)}, light)


def images_per_shard(n_images: int, batch: int) -> int:
    """Number of images in a shard: a multiple of the number in a batch, so that shards cut no batch in two.

    A thousandth of the images, so that many workers share them, but at least 16 batches, which decoding ahead needs,
    and about 65,536 images at most.
    """
    count = max(16 * batch, min(n_images // 1024, 65_536))
    return -(-count // batch) * batch


def answer(scorer: ShardScorer, shard: Shard) -> ShardScores | OddlensError:
    """What a worker answers: scores, or the error that ends the run, as a value that goes to another process."""
    try:
        return scorer(shard)
    except OddlensError as error:
        return error

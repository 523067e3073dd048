"""Scoring of more images than fit in memory, in a job that can be resumed after it was killed.

Each batch of scores is appended to a journal, and verdicts are computed from the journal at the end. So they are
bitwise the same however often the job was killed, even where a verdict depends on all scores.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oddlens.batch import verdict_files
from oddlens.batch.map_writer import MapWriter
from oddlens.conformal.lot import Lot
from oddlens.data.image_io import DECODERS, Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.ordered_pool import OrderedPool
from oddlens.data.preprocessing import mean_brightness
from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import SettingsError, UnreadableImageError
from oddlens.inference.scoring import batch_size, score_batches
from oddlens.io.digests import digest
from oddlens.io.journal import Journal, RunIdentity
from oddlens.io.own_files import is_own_png

ROWS_PER_BATCH = 4096  # enough for a row group of Parquet, and few enough for constant memory
INDEXED_SCORE = np.dtype([("index", np.intp), ("score", np.float64), ("brightness", np.float64)])


class DecodedBatch(NamedTuple):
    """The unreadable images of a batch, and the brightness of the others."""

    problems: dict[int, UnreadableImageError]
    brightness: list[float]


@dataclass(frozen=True, eq=False)
class ScoringJob:
    """A detector and the images to score with it; with `maps`, their anomaly maps are written below that folder.

    With `skip_unreadable`, images that cannot be read are left out; without it, the first one is an error.
    """

    detector: Detector
    images: ImageSet
    maps: Path | None = None
    skip_unreadable: bool = False

    def check_map_files(self) -> None:
        """Refuse maps that would replace files which oddlens did not write, before anything is scored.

        Raises:
            SettingsError: names the first of them.
        """
        if self.maps is None or not self.maps.is_dir():
            return
        paths = map(verdict_files.MapPaths(self.maps, self.images.names), self.images.names)
        foreign = next((path for path in paths if os.path.lexists(path) and not is_own_png(path)), None)
        if foreign is not None:
            raise SettingsError(
                f"{foreign}: was not written by oddlens and would be replaced by a map; move it away, or choose "
                "another folder for --maps"
            )

    def identity(self) -> RunIdentity:
        """The identity of a run: a run can be resumed only by one with equal values; errors use the keys as names."""
        names = (os.fsencode(os.path.abspath(name)) + b"\0" for name in self.images.names)  # noqa: PTH100 - a million
        groups = "\0".join(self.images.groups).encode(errors="surrogateescape")
        return {
            "detector or threshold": self.detector.manifest.digest,
            "runtime": self.detector.backend.name,
            "list of images or their groups": f"{len(self.images)} {digest(chain(names, [groups]))}",
            "--maps": None if self.maps is None else os.path.abspath(self.maps),  # noqa: PTH100 - resolves ".."
        }

    def score(self, journal: Journal) -> Iterator[tuple[int, list[UnreadableImageError]]]:
        """Score the images that the journal lacks, in the same batches as a run without interruption.

        Yields, first for the journal and then after each batch, the number of images done so far and the errors of
        the images left out since the last time.

        Raises:
            UnreadableImageError: an image cannot be read, and `skip_unreadable` is not set.
            ImageError: an image does not fit the detector.
        """
        done, unreadable = 0, dict[int, UnreadableImageError]()
        for entry in journal:
            done += len(entry["scores"]) + len(entry["left_out"])
            for index, reason in entry["left_out"].items():
                unreadable[int(index)] = UnreadableImageError(self.images.names[int(index)], reason)
        if unreadable and not self.skip_unreadable:
            raise min(unreadable.items())[1]
        yield done, list(unreadable.values())
        pending = deque[DecodedBatch]()  # since scoring decodes some batches ahead
        with OrderedPool[None](DECODERS) as pool:  # decodes and writes maps: not more threads, and memory, than without
            maps = self._map_writer(pool)
            for outputs in score_batches(self.detector.backend, self._batches(done, pending, pool, maps)):
                problems, brightness = pending.popleft()
                start, done = done, done + len(outputs.anomaly_score) + len(problems)
                if maps is not None and outputs.anomaly_map is not None:  # before the journal says that they are there
                    maps.write([i for i in range(start, done) if i not in problems], outputs.anomaly_map)
                reasons = {str(index): error.reason for index, error in problems.items()}
                scores = outputs.anomaly_score.tolist()
                journal.add({"scores": scores, "brightness": brightness, "left_out": reasons})
                yield done, list(problems.values())

    def _map_writer(self, pool: OrderedPool[None]) -> MapWriter | None:
        threshold = self.detector.map_threshold
        if self.maps is None or threshold is None:
            return None
        return MapWriter(self.maps, self.images, threshold, self.detector.spec.value_max, pool)

    def _batches(
        self,
        start: int,
        pending: deque[DecodedBatch],
        pool: OrderedPool[None],
        maps: MapWriter | None,
    ) -> Iterator[Pixels]:
        """Yield the batches from image `start` on, and append to `pending` what is known of each."""
        problems, spec = dict[int, UnreadableImageError](), self.detector.spec
        for pixels in self.images.batches(
            spec,
            batch_size(spec),
            start,
            problems if self.skip_unreadable else None,
            pool=pool,
            on_image=None if maps is None else maps.add_image,
        ):
            pending.append(DecodedBatch(problems.copy(), mean_brightness(pixels, spec.value_max).tolist()))
            problems.clear()
            yield pixels

    def rows(
        self, journal: Journal, fdr: float | None = None, lot: Lot | None = None
    ) -> Iterator[list[verdict_files.VerdictRow]]:
        """Yield the rows of all images with a score in the journal, some at a time, and count the images in `lot`.

        With a false discovery rate `fdr`, verdicts depend on all scores, and are computed all at once.
        """
        names, groups = self.images.names, self.images.groups
        scores = _indexed_scores(journal)
        count = ROWS_PER_BATCH if fdr is None else len(self.images)
        while len(part := np.fromiter(islice(scores, count), INDEXED_SCORE)):
            index = part["index"].tolist()
            part_groups = [groups[i] for i in index] if groups else ()
            if lot is not None:
                lot.add(part["score"], part_groups, part["brightness"])
            verdicts = self.detector.predict_from_scores([names[i] for i in index], part["score"], fdr, part_groups)
            for start in range(0, len(verdicts), ROWS_PER_BATCH):
                yield verdict_files.verdict_rows(verdicts, slice(start, start + ROWS_PER_BATCH))

    def verdicts(self, journal: Journal, fdr: float | None = None) -> tuple[ImageSet, Verdicts]:
        """All images with a score in the journal, and the verdicts on them: those of `rows`, at once."""
        scores = np.fromiter(_indexed_scores(journal), INDEXED_SCORE)
        images = self.images.subset(scores["index"])
        return images, self.detector.predict_from_scores(images.names, scores["score"], fdr, images.groups)


def _indexed_scores(journal: Journal) -> Iterator[tuple[int, float, float]]:
    """Yield the index, score and brightness of each image that was not left out; NaN where an older run wrote none."""
    done = 0
    for entry in journal:
        start, done = done, done + len(entry["scores"]) + len(entry["left_out"])
        indices = (i for i in range(start, done) if str(i) not in entry["left_out"])
        brightness = entry.get("brightness", [math.nan] * len(entry["scores"]))
        yield from zip(indices, entry["scores"], brightness, strict=True)

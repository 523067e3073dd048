"""Scoring more images than memory holds, by a run that may be killed: decode, score, journal, then decide and write.

Scores go to a journal, a batch at a time; verdicts are made from it at the end, so that they are the same to the last
bit however often the run was killed, in every format, also where a verdict depends on all the scores.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from oddlens.batch import verdict_files
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import UnreadableImageError
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import batch_size, score_batches
from oddlens.io.journal import Journal, RunIdentity

ROWS_PER_BATCH = 4096  # verdicts made at once: enough for a row group of Parquet, few enough for constant memory
SCORED = np.dtype([("place", np.intp), ("score", np.float64)])


@dataclass(frozen=True, eq=False)
class ScoringJob:
    """Images on their way through a detector; with `maps`, each one's map is written below that folder.

    Images that cannot be read are left out where that is asked for, and end the run otherwise.
    """

    detector: Detector
    images: ImageSet
    maps: Path | None = None
    skip_unreadable: bool = False

    def run(self) -> RunIdentity:
        """What has to be the same for one run to go on after another, by the names that an error calls it."""
        names = hashlib.blake2b(digest_size=16)
        for name in self.images.names:
            names.update(os.fsencode(os.path.abspath(name)) + b"\0")  # noqa: PTH100 - of a million strings
        names.update("\0".join(self.images.groups).encode(errors="surrogateescape"))
        return {
            "detector or threshold": self.detector.manifest.digest,
            "runtime": self.detector.backend.name,
            "list of images or their groups": f"{len(self.images)} {names.hexdigest()}",
            "--maps": None if self.maps is None else os.path.abspath(self.maps),  # noqa: PTH100 - resolves ".."
        }

    def score(self, journal: Journal) -> Iterator[tuple[int, list[UnreadableImageError]]]:
        """Score the images that the journal lacks, batch by batch, in the batches of a run that was not killed.

        After each batch, and first after what the journal holds, gives how many images are done and the errors of
        those left out since.

        Raises:
            UnreadableImageError: an image cannot be read, and is not to be left out.
            ImageError: an image does not fit the detector.
        """
        done, left_out = 0, dict[int, UnreadableImageError]()
        for entry in journal:
            done += len(entry["scores"]) + len(entry["left_out"])
            for place, reason in entry["left_out"].items():
                left_out[int(place)] = UnreadableImageError(self.images.names[int(place)], reason)
        if left_out and not self.skip_unreadable:
            raise min(left_out.items())[1]
        yield done, list(left_out.values())
        missing = deque[dict[int, UnreadableImageError]]()  # batch by batch: scoring takes some ahead
        map_places = self._map_places()
        for outputs in score_batches(self.detector.backend, self._batches(done, missing)):
            problems = missing.popleft()
            start, done = done, done + len(outputs.anomaly_score) + len(problems)
            if map_places is not None:
                self._write_maps(outputs, [i for i in range(start, done) if i not in problems], map_places)
            reasons = {str(place): error.reason for place, error in problems.items()}
            journal.add({"scores": outputs.anomaly_score.tolist(), "left_out": reasons})
            yield done, list(problems.values())

    def _batches(self, start: int, missing: deque[dict[int, UnreadableImageError]]) -> Iterator[Pixels]:
        """The batches from an image on; `missing` is told what each of them lacks."""
        problems, spec = dict[int, UnreadableImageError](), self.detector.spec
        for pixels in self.images.batches(spec, batch_size(spec), start, problems if self.skip_unreadable else None):
            missing.append(problems.copy())
            problems.clear()
            yield pixels

    def rows(self, journal: Journal, fdr: float | None = None) -> Iterator[list[verdict_files.VerdictRow]]:
        """The rows of all images that the journal has scores of, some at a time.

        With a false discovery rate `fdr`, a verdict depends on all the scores, and they are judged at once.
        """
        names, groups = self.images.names, self.images.groups
        scored = _scored(journal)
        at_once = ROWS_PER_BATCH if fdr is None else len(self.images)
        while len(part := np.fromiter(islice(scored, at_once), SCORED)):
            places = part["place"].tolist()
            of_each = [groups[i] for i in places] if groups else ()
            judged = self.detector.predict_from_scores([names[i] for i in places], part["score"], fdr, of_each)
            for start in range(0, len(judged), ROWS_PER_BATCH):
                yield verdict_files.verdict_rows(judged, slice(start, start + ROWS_PER_BATCH))

    def _map_places(self) -> verdict_files.MapPaths | None:
        return None if self.maps is None else verdict_files.MapPaths(self.maps, self.images.names)

    def _write_maps(self, outputs: Predictions, places: list[int], map_places: verdict_files.MapPaths) -> None:
        level, value_max = self.detector.map_threshold, self.detector.spec.value_max
        if outputs.anomaly_map is None or level is None:
            return
        for i, anomaly_map in zip(places, outputs.anomaly_map, strict=True):
            path = map_places(self.images.names[i])
            verdict_files.write_map(path, self.images.image(i), anomaly_map, level, value_max)


def _scored(journal: Journal) -> Iterator[tuple[int, float]]:
    """The place and the score of each image that was not left out."""
    done = 0
    for entry in journal:
        start, done = done, done + len(entry["scores"]) + len(entry["left_out"])
        places = (i for i in range(start, done) if str(i) not in entry["left_out"])
        yield from zip(places, entry["scores"], strict=True)

"""The parts that people should judge next: those from whose judgement the detector learns most."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED
from oddlens.conformal.ranks import Scores
from oddlens.data.near_duplicates import Thumbnails, near_duplicate_groups, thumbnails
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.service.inspecting import Upload, decode_upload
from oddlens.store.inspection import Filters, StoredInspection
from oddlens.store.store import Store

MAX_SCANNED = 2_000  # newest inspections among which is searched
PAGE = 500
CANDIDATES = 3  # per place of the queue, of which near-identical ones are left out
MAX_THUMBNAILS = 1_000


class ReviewQueue:
    """Parts that nobody judged, sorted by what a judgement teaches.

    A judgement enters the next calibration as one image more (`oddlens feedback`). That moves the threshold only if the
    image lies near it, and the verdict of the detector is the less certain the nearer the threshold is. So parts are
    sorted by their distance to it,

        |ln(p / a)| + |s - t| / |t - m|,

    with the p-value p, the false-alarm rate a, the score s, the threshold t and the calibration median m. The p-value
    measures how rare such a score is among normal images, but is the same for all scores above the calibration images;
    the second term tells these apart. At equal distance, anomalies come first: a false alarm stops the line today. Of
    near-identical parts one is shown, since they count as one in a calibration. Parts of detectors that do not serve,
    or whose image has expired, and images that were judged in another inspection are left out.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._thumbnails: dict[str, Thumbnails] = {}  # by the digest of the image

    def find(
        self, store: Store, detectors: Mapping[str, Detector], limit: int, station: str | None = None
    ) -> list[StoredInspection]:
        """At most `limit` parts of these detectors by their names, of a station or of all, those that teach most first.

        Raises:
            StoreError: the store cannot be read.
        """
        scanned = list(newest(store, Filters(station=station)))
        judged = {item.image_sha256 for item in scanned if item.judgement is not None}
        by_decision = defaultdict[tuple[str, str], list[StoredInspection]](list)
        for item in scanned:
            if item.judgement is None and item.image_stored and item.image_sha256 not in judged:
                by_decision[item.detector, item.group or UNGROUPED].append(item)
        ranked = list[tuple[float, bool, int, StoredInspection]]()
        for (name, group), items in by_decision.items():
            detector = detectors.get(name)
            part = None if detector is None else detector.decisions_.parts.get(group)
            if detector is None or part is None or not part.calibration_scores.size:
                continue
            own = [item for item in items if item.training == detector.manifest.data.fingerprint]
            for far, item in zip(distances([item.anomaly_score for item in own], part), own, strict=True):
                ranked.append((round(float(far), 9), item.verdict != "anomaly", -item.id, item))
        candidates = dict[str, StoredInspection]()  # by the digest of the image, the first in order
        for *_, item in sorted(ranked, key=lambda entry: entry[:3]):
            candidates.setdefault(item.image_sha256, item)
        return self._different(store, [*candidates.values()][: limit * CANDIDATES])[:limit]

    def _different(self, store: Store, candidates: Sequence[StoredInspection]) -> list[StoredInspection]:
        """The first of each group of near-identical parts, in order."""
        rows, readable = list[Thumbnails](), list[StoredInspection]()
        for item in candidates:
            if (row := self._thumbnail(store, item)) is not None:
                rows.append(row)
                readable.append(item)
        if not rows:
            return []
        _, first = np.unique(near_duplicate_groups(np.concatenate(rows)), return_index=True)
        return [readable[i] for i in sorted(first)]

    def _thumbnail(self, store: Store, item: StoredInspection) -> Thumbnails | None:
        if item.image_sha256 not in self._thumbnails:
            try:
                content = store.image(item)
                row = None if content is None else thumbnails([decode_upload(Upload(item.name, content))])
            except OddlensError:
                row = None  # nobody could look at it
            if row is None:
                return None
            if len(self._thumbnails) >= MAX_THUMBNAILS:
                del self._thumbnails[next(iter(self._thumbnails))]
            self._thumbnails[item.image_sha256] = row
        return self._thumbnails[item.image_sha256]


def newest(store: Store, filters: Filters) -> Iterable[StoredInspection]:
    """The newest inspections, some at a time, so that writers do not wait long."""
    before, count = None, 0
    while count < MAX_SCANNED and (page := store.inspections(filters, limit=PAGE, before=before)):
        yield from page
        before, count = page[-1].id, count + len(page)


def distances(scores: Sequence[float], part: Decision) -> Scores:
    """How far scores (N,) are from the threshold, (N,): see `ReviewQueue`; a threshold may be infinite."""
    values, threshold = np.asarray(scores, dtype=np.float64), part.threshold
    far = np.abs(np.log(part.p_values(values) / part.false_alarm_rate))
    if not math.isfinite(threshold):
        return far
    scale = abs(threshold - float(np.median(part.calibration_scores))) or 1.0
    return far + np.abs(values - threshold) / scale

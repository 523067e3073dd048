from __future__ import annotations

import numpy as np
import pytest
from running_service import png
from stored_inspections import inspection

from oddlens.conformal.grouped import UNGROUPED
from oddlens.detector.detector import Detector
from oddlens.pages.station.review import ReviewQueue, distances
from oddlens.store.store import Store

RNG = np.random.default_rng(0)


def threshold_of(detector: Detector) -> float:
    return detector.decisions_.single.threshold


def add(store: Store, tiles: Detector, score: float, image: bytes | None = None, **changes: object) -> int:
    """Add an inspection of an image of noise, unless it has another one."""
    threshold = threshold_of(tiles)
    verdict = "anomaly" if score > threshold else "normal"
    content = png(RNG.integers(0, 255, (48, 48), dtype=np.uint8)) if image is None else image
    return store.add(inspection(**{"anomaly_score": score, "verdict": verdict} | changes), content)


def queue(store: Store, tiles: Detector, limit: int = 10) -> list[int]:
    return [item.id for item in ReviewQueue().find(store, {"tiles": tiles}, limit)]


def test_parts_near_the_threshold_come_first_and_of_clear_ones_the_less_clear(store: Store, tiles: Detector) -> None:
    part = tiles.decisions_.parts[UNGROUPED]
    scores = [part.threshold + step * abs(part.threshold) for step in (9.0, -0.05, 0.01, 2.0, -0.6)]
    ids = [add(store, tiles, score) for score in scores]
    order = np.argsort(distances(scores, part))
    assert queue(store, tiles) == [ids[i] for i in order]
    assert queue(store, tiles)[0] == ids[2]
    assert [ids.index(number) for number in queue(store, tiles) if scores[ids.index(number)] > part.threshold] == [
        2,
        3,
        0,
    ]
    assert queue(store, tiles, 2) == [ids[i] for i in order[:2]]


def test_scores_beyond_all_calibration_images_still_differ(tiles: Detector) -> None:
    part = tiles.decisions_.parts[UNGROUPED]
    top = float(part.calibration_scores.max())
    near, far = distances([top * 1.1, top * 10], part)
    assert near < far


def test_what_was_judged_has_expired_or_is_another_detectors_is_left_out(store: Store, tiles: Detector) -> None:
    threshold = threshold_of(tiles)
    image = png(RNG.integers(0, 255, (48, 48), dtype=np.uint8))
    judged, again, free = add(store, tiles, threshold, image), add(store, tiles, threshold, image), add(store, tiles, 1)
    add(store, tiles, threshold, detector="another")
    store.judge(judged, "normal", person="Anna")
    assert queue(store, tiles) == [free]
    store.withdraw(store.judgements(judged)[0].id, person="Anna")
    assert queue(store, tiles) == [again, free], "of equal images the newest"
    store.prune(keep_gb=0)
    assert queue(store, tiles) == []


def test_of_near_identical_parts_one_is_shown(store: Store, tiles: Detector) -> None:
    threshold = threshold_of(tiles)
    pixels = RNG.integers(0, 250, (48, 48), dtype=np.uint8)
    series = [add(store, tiles, threshold + 1e-3 * i, png(pixels + np.uint8(i))) for i in range(5)]
    others = [add(store, tiles, 3 * threshold) for _ in range(4)]
    shown = queue(store, tiles)
    assert len(set(shown) & set(series)) == 1
    assert set(others) <= set(shown)


def test_many_copies_of_an_image_crowd_out_no_other_part(store: Store, tiles: Detector) -> None:
    threshold = threshold_of(tiles)
    image = png(RNG.integers(0, 255, (48, 48), dtype=np.uint8))
    copies = [add(store, tiles, threshold, image) for _ in range(20)]
    other = add(store, tiles, 5 * threshold)
    assert queue(store, tiles, 2) == [copies[-1], other]


def test_at_equal_distance_anomalies_come_before_normal_parts(
    store: Store, tiles: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = threshold_of(tiles)
    normal, anomaly = add(store, tiles, threshold - 1), add(store, tiles, threshold + 1)
    newer = add(store, tiles, threshold - 1)
    monkeypatch.setattr("oddlens.pages.station.review.distances", lambda scores, part: np.ones(len(scores)))
    assert queue(store, tiles) == [anomaly, newer, normal]


def test_only_the_newest_parts_are_searched(store: Store, tiles: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.pages.station.review.MAX_SCANNED", 4)
    monkeypatch.setattr("oddlens.pages.station.review.PAGE", 2)
    ids = [add(store, tiles, threshold_of(tiles)) for _ in range(6)]
    assert sorted(queue(store, tiles)) == ids[2:]


def test_an_image_that_nobody_can_decode_is_left_out(store: Store, tiles: Detector) -> None:
    add(store, tiles, threshold_of(tiles), b"no image")
    assert queue(store, tiles) == []

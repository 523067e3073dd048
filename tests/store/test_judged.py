"""Judged images: those of this detector, once each, by the last judgement that stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_inspections import DETECTOR_FILE, inspection

from oddlens.conformal.grouped import GroupedDecision
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.store.inspection import Verdict
from oddlens.store.judged import EXPIRED, OTHER_DETECTOR, judged_images
from oddlens.store.store import Store

NORMAL: list[Verdict] = ["normal"]
ANOMALY: list[Verdict] = ["anomaly"]


def add_judged(store: Store, contents: list[bytes], verdicts: list[Verdict]) -> list[int]:
    """Inspections of images with the detector's verdict "normal", and what people judged about them."""
    numbers = store.add_batch([(inspection(name=f"{i}.png"), image, None) for i, image in enumerate(contents)])
    for number, verdict in zip(numbers, verdicts, strict=False):
        store.judge(number, verdict, person="Ann")
    return numbers


def test_judged_images_are_read_with_their_labels(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    add_judged(store, contents, NORMAL * 6 + ANOMALY * 4)
    images, only_alarms = judged_images(store, tiles)
    assert images.labels.tolist() == [0] * 6 + [1] * 4
    assert images.names[0] == "0.png (inspection 1)"
    assert np.array_equal(tiles.score(images), tiles.score(contents[:10]))
    assert images.source == store.name
    assert not only_alarms
    assert len(judged_images(store, tiles, "normal").images) == 6
    assert judged_images(store, tiles, "anomaly").images.labels.tolist() == [1] * 4


def test_the_last_judgement_that_stands_counts_once_for_an_image(
    store: Store, tiles: Detector, contents: list[bytes]
) -> None:
    add_judged(store, [contents[0], contents[0], contents[1]], ["anomaly", "normal", "anomaly"])
    undone = store.judge(3, "normal", person="Ann")
    store.withdraw(undone.id, person="Ann")
    images, _ = judged_images(store, tiles)
    assert images.names == ("1.png (inspection 2)", "2.png (inspection 3)")
    assert images.labels.tolist() == [0, 1]
    store.judge(1, "anomaly", person="Bob")  # later than that of the same image in inspection 2
    assert judged_images(store, tiles).images.labels.tolist() == [1, 1]


def test_what_is_left_out_is_said(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    add_judged(store, contents[:2], ["normal", "normal"])
    store.prune(keep_gb=0)
    with pytest.raises(DataError, match=r"no image of this detector that was judged normal; left out, .*inspection 1"):
        judged_images(store, tiles, "normal")
    store.add(inspection(), contents[0])
    assert judged_images(store, tiles).images.left_out == {EXPIRED: ("inspection 2",)}
    other = Detector.load(DETECTOR_FILE, threads=1)
    data = other.manifest.data.model_copy(update={"fingerprint": "another"})
    other._manifest = other.manifest.model_copy(update={"data": data})
    with pytest.raises(DataError, match="that was judged; left out"):
        judged_images(store, other)


def test_images_of_other_detectors_are_left_out_but_not_those_of_earlier_calibrations(
    store: Store, tiles: Detector, contents: list[bytes], tmp_path: Path
) -> None:
    add_judged(store, contents[:6], NORMAL * 6)
    calibrated = Detector.load(DETECTOR_FILE, threads=1)
    decision = calibrated.manifest.decision.model_copy(update={"false_alarm_rate": 0.2})
    calibrated.calibrate(list(contents[6:]), decision=decision, count_by="image")
    path = calibrated.save(tmp_path / "calibrated.onnx")
    calibrated = Detector.load(path, threads=1)
    assert calibrated.manifest.digest != tiles.manifest.digest
    assert len(judged_images(store, calibrated).images) == 6
    data = calibrated.manifest.data.model_copy(update={"fingerprint": "another"})
    calibrated._manifest = calibrated.manifest.model_copy(update={"data": data})
    store.add_detector(Detector.load(path, threads=1), path)
    with pytest.raises(DataError, match=OTHER_DETECTOR):
        judged_images(store, calibrated)


def test_only_false_alarms_are_noticed(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    for content in contents[:2]:
        store.judge(store.add(inspection(verdict="anomaly"), content), "normal", person="Ann")
    assert judged_images(store, tiles).only_alarms
    store.judge(store.add(inspection(), contents[2]), "normal", person="Ann")
    assert not judged_images(store, tiles).only_alarms


def test_a_detector_with_groups_needs_the_group_of_each_image(
    store: Store, tiles: Detector, contents: list[bytes]
) -> None:
    grouped = Detector.load(DETECTOR_FILE, threads=1)
    part = grouped.decision_
    grouped.decisions_ = GroupedDecision({"left": part, "right": part})
    data = grouped.manifest.data.model_copy(update={"groups": ("left", "right"), "grouped_by": "column camera"})
    grouped._manifest = grouped.manifest.model_copy(update={"data": data})
    one = replace(inspection(), group="left")
    store.judge(store.add(one, contents[0]), "normal", person="Ann")
    images, _ = judged_images(store, grouped)
    assert (images.groups, images.grouped_by) == (("left",), "column camera")
    store.judge(store.add(inspection(name="b.png"), contents[1]), "normal", person="Ann")
    with pytest.raises(DataError, match=r"b\.png \(inspection 2\): its group has no name"):
        judged_images(store, grouped)

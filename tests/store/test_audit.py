"""Audits: a verdict is repeated bit for bit, or it is said why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stored_inspections import DETECTOR_FILE, inspection

from oddlens.data.open import as_image_set
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, OddlensError
from oddlens.store.audit import Audit, audit
from oddlens.store.inspection import make_inspections
from oddlens.store.store import Store


def add_scored(store: Store, detector: Detector, images: list[bytes], batch: int, **changes: Any) -> list[int]:
    """Score images as a service does, so many at a time, and add them; with `changes`, not what was scored."""
    inspections = []
    for start in range(0, len(images), batch):
        inspections += make_inspections(
            detector, detector.predict(images[start : start + batch]), name="tiles", batch_size=batch
        )
    changed = [replace(one, **changes) for one in inspections]
    return store.add_batch([(one, image, None) for one, image in zip(changed, images, strict=True)])


def repeated(store: Store, number: int) -> Any:
    again = audit(store, number).repeated
    assert again is not None
    return again


@pytest.mark.parametrize("batch", [1, 4, 12])
def test_a_verdict_is_repeated_with_the_same_bits(
    store: Store, tiles: Detector, contents: list[bytes], batch: int
) -> None:
    verdicts = set()
    for number in add_scored(store, tiles, contents, batch):
        again, recorded = repeated(store, number), store.inspection(number)
        assert (again.same_verdict, again.same_bits, again.same_bits_expected, again.agrees) == (True,) * 4
        assert again.anomaly_score == recorded.anomaly_score
        assert (again.p_value, again.threshold) == (recorded.p_value, recorded.threshold)
        assert again.relative_difference == 0
        verdicts.add(again.verdict)
    assert verdicts == {"normal", "anomaly"}


def test_a_score_that_was_not_computed_so_does_not_agree(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    score = tiles.score(contents[:1])[0]
    (number,) = add_scored(store, tiles, contents[:1], 1, anomaly_score=float(np.nextafter(score, np.inf)))
    again = repeated(store, number)
    assert (again.same_verdict, again.same_bits, again.same_bits_expected) == (True, False, True)
    assert not again.agrees


def test_another_processor_or_runtime_may_differ_a_little(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    score = tiles.score(contents[:1])[0]
    for other in ({"processor": "another"}, {"runtime": "onnxruntime 1.0 cpu fp32"}):
        for factor, agrees in ((1 + 9e-6, True), (1 + 2e-5, False)):
            (number,) = add_scored(store, tiles, contents[:1], 1, anomaly_score=float(score * factor), **other)
            again = repeated(store, number)
            assert not again.same_bits_expected
            assert again.agrees == agrees
            assert again.relative_difference == pytest.approx(factor - 1, rel=1e-3)


def test_another_verdict_does_not_agree(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    (number,) = add_scored(store, tiles, contents[:1], 1, verdict="anomaly")
    audited = audit(store, number)
    assert audited.repeated is not None
    assert (audited.inspection.verdict, audited.repeated.verdict) == ("anomaly", "normal")
    assert (audited.repeated.same_bits, audited.repeated.same_verdict, audited.repeated.agrees) == (True, False, False)


def test_what_has_expired_is_said(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    (number,) = add_scored(store, tiles, contents[:1], 1)
    store.judge(number, "anomaly", person="Ann")
    store.prune(keep_gb=0)
    audited = audit(store, number)
    assert (audited.repeated, audited.reason) == (None, "the image and the detector have expired")
    assert [one.person for one in audited.judgements] == ["Ann"]
    store.add_detector(tiles, DETECTOR_FILE)
    assert audit(store, number).reason == "the image has expired"
    assert audit(store, number).as_json()["repeated"] is None


def test_everything_is_in_the_json(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    (number,) = add_scored(store, tiles, contents[:1], 1)
    first = store.judge(number, "anomaly", person="Ann", reason="scratch")
    store.withdraw(first.id, person="Bob")
    values = audit(store, number).as_json()
    assert values["reason"] is None
    assert values["repeated"]["agrees"] is True
    assert values["inspection"]["detector_digest"] == tiles.manifest.digest
    assert values["inspection"]["judgement"] is None
    assert [one["withdraws"] for one in values["judgements"]] == [None, first.id]


def test_a_damaged_image_is_an_error(store: Store, tiles: Detector, contents: list[bytes]) -> None:
    (number,) = add_scored(store, tiles, contents[:1], 1)
    store.files.path(store.inspection(number).image_sha256).write_bytes(contents[1])
    with pytest.raises(ArtifactError, match="is not what was written"):
        audit(store, number)


def test_an_image_that_is_none_is_an_error(store: Store) -> None:
    number = store.add(inspection(), b"no image")
    with pytest.raises(OddlensError, match="array"):
        audit(store, number)


def test_an_inspection_that_does_not_exist_is_an_error(store: Store) -> None:
    with pytest.raises(DataNotFoundError, match="there is no inspection 7"):
        audit(store, 7)


def test_the_threshold_of_the_group_decides(
    store: Store, tiles: Detector, contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = as_image_set(list(contents))
    groups = ("left", "right") * 6
    by_group = Detector.load(DETECTOR_FILE, threads=1)
    by_group.calibrate(replace(images, groups=groups, grouped_by="column camera"), count_by="image",
                       decision=by_group.manifest.decision.model_copy(update={"false_alarm_rate": 0.2}))  # fmt: skip
    path = by_group.save(tmp_path_factory.mktemp("by-group") / "part.onnx")
    detector = Detector.load(path, threads=1)
    store.add_detector(detector, path)
    verdicts = detector.predict(replace(images, groups=groups, grouped_by="column camera"))
    made = make_inspections(detector, verdicts, name="tiles", batch_size=12, groups=groups)
    numbers = store.add_batch([(one, image, None) for one, image in zip(made, contents, strict=True)])
    audits: list[Audit] = [audit(store, number) for number in numbers]
    assert all(one.repeated is not None and one.repeated.agrees for one in audits)
    assert len({one.repeated.threshold for one in audits if one.repeated}) == 2

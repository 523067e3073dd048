"""Inspections as plain values: what is refused, and what is cleaned."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from stored_inspections import DIGEST, inspection

from oddlens import __version__
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError
from oddlens.io.environment import processor_name
from oddlens.store.inspection import Filters, Judgement, as_json, make_inspections


@pytest.mark.parametrize(
    "changes", [{"anomaly_score": math.nan}, {"anomaly_score": math.inf}, {"batch_size": 0}, {"batch_size": 2**70}]
)
def test_a_score_must_be_finite_and_a_batch_have_an_image(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="needs a finite score and a batch of 1 to"):
        inspection(**changes)


def test_only_two_verdicts_exist() -> None:
    with pytest.raises(SettingsError, match="'odd' is not a verdict; give one of: normal, anomaly"):
        inspection(verdict="odd")
    with pytest.raises(SettingsError, match="'odd' is not a verdict"):
        Filters(verdict="odd")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="'odd' is not a verdict"):
        Filters(judgement="odd")  # type: ignore[arg-type]
    assert Filters(judgement="any").judgement == "any"


def test_numbers_that_json_lacks_are_none() -> None:
    one = inspection(p_value=math.nan, threshold=math.inf)
    assert (one.p_value, one.threshold) == (None, None)


def test_text_that_a_database_refuses_is_written_as_numbers() -> None:
    one = inspection(name="caf\udce9\0.png", lot="\ud800")
    assert one.name == "caf\\udce9\\x00.png"
    assert one.lot == "\\ud800"


def test_times_are_in_utc() -> None:
    noon = datetime(2026, 11, 30, 12)
    assert inspection(time=noon).time == noon.replace(tzinfo=UTC)
    assert inspection(time=noon.replace(tzinfo=timezone(timedelta(hours=2)))).time == datetime(
        2026, 11, 30, 10, tzinfo=UTC
    )
    assert as_json(inspection(time=noon))["time"] == "2026-11-30T12:00:00+00:00"


def test_inspections_say_everything_that_made_a_verdict(tiles: Detector, contents: list[bytes]) -> None:
    verdicts = tiles.predict(contents)
    made = make_inspections(tiles, verdicts, name="line 3", batch_size=12, lot="A")
    assert [one.verdict for one in made] == verdicts.verdict
    assert {one.verdict for one in made} == {"normal", "anomaly"}
    assert [one.anomaly_score for one in made] == verdicts.anomaly_score.tolist()
    first = made[0]
    assert (first.detector, first.detector_digest, first.threads, first.batch_size) == ("line 3", DIGEST, 1, 12)
    assert (first.runtime, first.processor, first.version) == (tiles.backend.name, processor_name(), __version__)
    assert (first.lot, first.part, first.group) == ("A", None, None)
    assert make_inspections(tiles, verdicts, name="x", batch_size=1, groups=["g"] * 12)[3].group == "g"


def test_a_judgement_is_described_in_a_line() -> None:
    time = datetime(2026, 11, 30, 12, tzinfo=UTC)
    one = Judgement(id=1, inspection_id=2, time=time, person="Ann", verdict="normal", reason="dust")
    assert one.describe() == "normal, Ann, 2026-11-30 12:00:00 UTC: dust"
    undo = Judgement(id=3, inspection_id=2, time=time, person="Bob", verdict=None, reason="", withdraws=1)
    assert undo.describe() == "withdraws judgement 1, Bob, 2026-11-30 12:00:00 UTC"

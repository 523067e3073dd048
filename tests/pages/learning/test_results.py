"""Results: another threshold, two detectors side by side, and the file to deploy."""

from __future__ import annotations

import numpy as np
import pytest
from photo_folders import Desk

from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataNotFoundError, SettingsError, StateError
from oddlens.io.own_folder import lock
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.results import RETUNED, as_plain, compare, for_deployment, rates, result_of, retune


@pytest.fixture
def job(fitted_desk: tuple[Desk, Job]) -> Job:
    return fitted_desk[1]


def test_retuning_moves_the_threshold_as_the_detector_itself_does(job: Job) -> None:
    before, files = result_of(job), {path: path.read_bytes() for path in job.folder.glob("detector.*")}
    assert retune(job, 0.3) == "0.3"
    after = result_of(job, "0.3")
    expected = Detector.load(job.own("detector.onnx"))
    values = expected.manifest.decision.model_dump() | {"false_alarm_rate": 0.3}
    expected.set_decision(type(expected.manifest.decision)(**values))
    assert after["threshold"] == expected.decision_.threshold != before["threshold"]
    assert after["guarantee"].startswith("At most 30%")
    assert [image["score"] for image in after["images"]] == [image["score"] for image in before["images"]]
    scores = np.array([image["score"] for image in after["images"]])
    is_flagged = [image["verdict"] == "anomaly" for image in after["images"]]
    assert is_flagged == (scores > after["threshold"]).tolist()
    labels = np.array([image["label"] for image in after["images"]])
    assert after["test"]["detection_rate"] == np.mean(np.array(is_flagged)[labels == 1])
    assert after["test"]["image_auroc"] == before["test"]["image_auroc"]
    assert {path: path.read_bytes() for path in files} == files, "the old detector is as it was"
    assert result_of(job) == before
    served = Detector.load(for_deployment(job, "0.3"))
    assert served.manifest.digest == after["digest"] != before["digest"]
    assert served.decision_.threshold == after["threshold"]
    assert "0.3" in rates(job)


def test_figures_do_not_change_where_the_rate_does_not(job: Job) -> None:
    before = result_of(job)
    rate = retune(job, before["false_alarm_rate"])
    after = result_of(job, rate)
    assert after["threshold"] == before["threshold"]
    assert after["test"] == before["test"]
    assert after["images"] == before["images"]


@pytest.mark.parametrize(
    ("rate", "error"),
    [(0.0001, CalibrationError), (0.0, SettingsError), (1.5, SettingsError), (float("nan"), SettingsError)],
)
def test_a_rate_that_cannot_be_guaranteed_is_refused_and_writes_nothing(
    job: Job, rate: float, error: type[Exception]
) -> None:
    before = sorted(job.folder.rglob("*"))
    with pytest.raises(error):
        retune(job, rate)
    assert sorted(job.folder.rglob("*")) == before


def test_a_worker_that_is_done_and_not_yet_gone_is_nobody_else(job: Job) -> None:
    with lock(job.folder):
        assert retune(job, 0.3) == "0.3"


def test_two_people_do_not_retune_at_the_same_moment(job: Job) -> None:
    retune(job, 0.3)
    with lock(job.folder / RETUNED), pytest.raises(StateError, match="by somebody else"):
        retune(job, 0.25)


@pytest.mark.parametrize("rate", ["0.999", "../..", "..", "a"])
def test_only_rates_that_are_there_have_results(job: Job, rate: str) -> None:
    with pytest.raises(DataNotFoundError, match="was not retuned"):
        for_deployment(job, rate)


def test_a_job_that_is_not_done_has_nothing_to_deploy(fitted_desk: tuple[Desk, Job]) -> None:
    desk, _ = fitted_desk
    waiting = desk.jobs.add("fit", desk.project(), "Ada")
    for action in (for_deployment, result_of):
        with pytest.raises(StateError, match="waiting"):
            action(waiting)
    with pytest.raises(StateError, match="waiting"):
        retune(waiting, 0.1)


def test_two_detectors_are_compared_on_the_images_that_both_have(job: Job) -> None:
    retune(job, 0.3)
    first, second = result_of(job), result_of(job, "0.3")
    second["images"] = second["images"][1:]
    result = compare(first, second)
    assert [figures["threshold"] for figures in result["figures"]] == [first["threshold"], second["threshold"]]
    assert "images" not in result["figures"][0]
    assert len(result["images"]) == 11
    assert result["n_only"] == [1, 0]
    row = result["images"][0]
    assert row["each"][0]["score"] == row["each"][1]["score"] == first["images"][1]["score"]
    verdicts = [[one["verdict"] for one in image["each"]] for image in result["images"]]
    differing = [image["id"] for image, pair in zip(result["images"], verdicts, strict=True) if pair[0] != pair[1]]
    assert result["differ"] == differing


def test_detectors_of_different_photographs_are_not_compared(job: Job) -> None:
    result = result_of(job)
    with pytest.raises(StateError, match="different photographs, 'parts' and 'caps'"):
        compare(result, result | {"folder": "0" * 16, "folder_name": "caps"})


def test_json_has_no_infinity() -> None:
    assert [as_plain(value) for value in (np.float32(0.5), np.inf, np.nan, "normal")] == [0.5, None, None, "normal"]

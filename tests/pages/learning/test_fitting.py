"""The job that fits: excluded images, the region, the files, the report, and photographs that change meanwhile."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from photo_folders import Desk, do_here, write_photos

from oddlens.data.near_duplicates import fingerprints
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DiskFullError, ImageError, StateError
from oddlens.pages.learning import fitting
from oddlens.pages.learning.folders import identity
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.projects import FitSettings
from oddlens.pages.learning.results import result_of


def test_the_files_say_what_the_detector_was_fitted_to(fitted_desk: tuple[Desk, Job]) -> None:
    desk, job = fitted_desk
    detector = Detector.load(job.own("detector.safetensors"))
    data = detector.manifest.data
    assert data.source == "parts, without 2 excluded images"
    assert data.n_training + data.n_calibration == 58
    assert not detector.region.all()
    assert detector.region.mean() == pytest.approx(0.64, abs=0.15)
    images = open_dataset(desk.root / "parts").train
    prints = np.concatenate([detector.fingerprints("training"), detector.fingerprints("calibration")])
    is_used = np.isin(fingerprints(images.load(detector.spec)), prints)
    assert is_used.tolist() == [False] * 2 + [True] * 58


def test_the_result_has_what_a_page_needs(fitted_desk: tuple[Desk, Job]) -> None:
    desk, job = fitted_desk
    result, served = result_of(job), Detector.load(job.own("detector.onnx"))
    assert result["digest"] == served.manifest.digest
    assert result["guarantee"].startswith("At most ")
    assert (result["n_excluded"], result["n_training"] + result["n_calibration"]) == (2, 58)
    assert result["threshold"] == served.decision_.threshold
    assert result["calibration_scores"] == sorted(result["calibration_scores"])
    assert len(result["calibration_scores"]) == result["n_calibration"]
    assert result["sizes"]["detector.onnx"] == job.own("detector.onnx").stat().st_size
    assert result["seconds"]["fit"] > 0
    assert result["images_per_second"] > 0
    images = result["images"]
    assert len(images) == 12
    paths = [desk.photographs.image(desk.parts, image["id"]) for image in images]
    np.testing.assert_allclose([image["score"] for image in images], served.score(paths), rtol=1e-6)
    for image in images:
        assert image["verdict"] == ("anomaly" if image["score"] > image["threshold"] else "normal")
    test = result["test"]
    caught = [image["verdict"] == "anomaly" for image in images if image["label"]]
    assert test["detection_rate"] == np.mean(caught)
    assert (test["n_normal"], test["n_anomalous"]) == (6, 6)
    assert 0 <= test["image_auroc"] <= 1
    report = job.own("report.html").read_text(encoding="utf-8")
    assert "fit of &#39;parts&#39; in the project" in report
    assert str(desk.root) not in report
    assert not list(job.folder.glob("*.training"))


def test_without_test_images_the_photographs_are_scored(desk: Desk, fitted_desk: tuple[Desk, Job]) -> None:
    write_photos(desk.root / "<i>plain", 40)
    folder = next(folder.id for folder in desk.photographs.folders() if folder.name == "<i>plain")
    job = do_here(after_fit(desk.jobs.add("fit", desk.project(folder=folder), "Ada"), fitted_desk[1]))
    result = result_of(job)
    assert result["test"] is None
    assert len(result["images"]) == 40
    assert {image["part"] for image in result["images"]} == {"train"}
    assert result["images"][0]["id"] == identity("000.png")
    assert str(desk.root) not in job.own("report.html").read_text(encoding="utf-8")
    assert result["folder_name"] == "<i>plain"


def test_photographs_that_changed_are_noticed_when_a_fit_is_continued(desk: Desk) -> None:
    job = desk.jobs.add("fit", desk.project(), "Ada")
    data = open_dataset(desk.root / "parts")
    fitting.check_unchanged(job, data)
    fitting.check_unchanged(job, data)
    write_photos(desk.root / "parts/train/good", 1, seed=9)
    os.utime(desk.root / "parts/train/good/000.png", ns=(1, 1))
    with pytest.raises(StateError, match=r"000\.png: has changed since the work began.*fit anew"):
        do_here(job)


def test_a_photograph_that_disappears_while_fitting_is_an_error_in_words(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.jobs.add("fit", desk.project(), "Ada")
    begin = Progress.begin

    def remove(self: Progress, phase: str, message: str = "", budget: float | None = None) -> None:
        if phase == "training":
            (desk.root / "parts/train/good/003.png").unlink()
        begin(self, phase, message, budget)

    monkeypatch.setattr(Progress, "begin", remove)
    with pytest.raises(ImageError, match=r"003\.png: does not exist"):
        do_here(job)
    assert not (job.folder / "detector.safetensors").exists()


def test_a_full_disk_is_said_and_leaves_no_half_written_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job = desk.jobs.add("fit", desk.project(), "Ada")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError, match="No space left on device"):
        do_here(job)
    assert [path.name for path in job.folder.iterdir()] == ["job.json"]


def test_a_folder_without_normal_photographs_is_refused(desk: Desk) -> None:
    for path in (desk.root / "parts/train/good").iterdir():
        path.unlink()
    (desk.root / "parts/train/good").rmdir()
    (desk.root / "parts/train").rmdir()
    with pytest.raises(DataError, match="no normal photographs"):
        do_here(desk.jobs.add("fit", desk.project(), "Ada"))


def test_settings_of_the_light_reach_the_detector() -> None:

    settings = fitting.detector_settings(FitSettings(detector="padim", light="fixed"))
    assert settings.light == "fixed"  # type: ignore[attr-defined]


def test_test_images_that_cannot_be_read_are_left_out_and_said(desk: Desk, fitted_desk: tuple[Desk, Job]) -> None:
    (desk.root / "parts/test/spot/000.png").write_bytes(b"torn")
    job = do_here(after_fit(desk.jobs.add("fit", desk.project(), "Ada"), fitted_desk[1]))
    result = result_of(job)
    assert len(result["images"]) == 11
    assert "000.png" in result["skipped"][0]


def test_a_job_that_was_interrupted_after_its_fit_does_not_fit_again(
    desk: Desk, fitted_desk: tuple[Desk, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "fit", None)
    job = do_here(after_fit(desk.jobs.add("fit", desk.project(), "Ada"), fitted_desk[1]))
    assert result_of(job)["digest"] == result_of(fitted_desk[1])["digest"]


def after_fit(job: Job, earlier: Job) -> Job:
    """The job, as if it had been interrupted after the fit and the export of an earlier one."""
    for name in ("detector.safetensors", "detector.onnx", "fit.json"):
        shutil.copy(earlier.folder / name, job.folder)
    return job

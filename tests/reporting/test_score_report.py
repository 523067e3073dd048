"""The page of verdicts on images of which nobody said what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from report_pages import Page, open_page

from oddlens.conformal.calibration_scores import CalibrationScores
from oddlens.data.groups import assign_groups
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector.detector import Detector
from oddlens.reporting.score_report import write_score_report


def write(path: Path, detector: Detector, images: ImageSet, fdr: float | None = None) -> Page:
    scores = detector.score(images)
    verdicts = detector.predict_from_scores(images.names, scores, fdr, images.groups)
    lot = detector.test_lot(scores, images.groups)
    write_score_report(path, "Lot 7", detector, images, verdicts, lot, [], "oddlens score", "d.onnx", fdr)
    return Page(path)


def test_the_page_counts_what_is_flagged_and_has_no_word_on_right_and_wrong(
    digits_detector: Detector, digits: DataSet, tmp_path: Path, browser: Any
) -> None:
    images = digits.test.subset(np.arange(80))
    page = write(tmp_path / "r.html", digits_detector, images)
    n_flagged = int(digits_detector.predict(images).label.sum())
    assert f"{n_flagged} of 80 images" in page.text["dd"]
    assert "Lot test: as a whole, the 80 images" in page.source
    with open_page(browser, tmp_path / "r.html") as opened:
        assert opened.locator("#filters b").count() == 4, "all, borderline, anomalies, normal"
        assert "✓ right" not in opened.content().split('id="data"')[0]
        assert not opened.locator("#shift").is_visible()
        opened.locator("#threshold").focus()
        opened.keyboard.press("Home")
        opened.wait_for_function("document.querySelector('[data-live=\"flagged\"]').textContent !== '0.0%'")
        lowest = opened.locator('[data-live="flagged-detail"]').inner_text()
        assert int(lowest.split()[0]) > 70


def test_a_false_discovery_rate_is_what_is_guaranteed(
    digits_detector: Detector, digits: DataSet, tmp_path: Path, browser: Any
) -> None:
    page = write(tmp_path / "r.html", digits_detector, digits.test.subset(np.arange(80)), fdr=0.05)
    assert "≤ 5%" in page.text["dd"]
    assert "at most 5% of the flagged images are normal" in page.source
    with open_page(browser, tmp_path / "r.html") as opened:
        assert "∞" in opened.locator('[data-live="threshold"]').first.inner_text(), "too few images to flag any"


def test_with_a_threshold_for_each_group_the_line_moves_along_p_values(
    digits_detector: Detector, digits: DataSet, tmp_path: Path, browser: Any
) -> None:
    import copy

    groups = tmp_path / "groups.csv"
    calibration, images = digits.test.subset(np.arange(100, 300)), digits.test.subset(np.arange(80))
    rows = [f"{name},camera {i % 2}" for some in (calibration, images) for i, name in enumerate(some.names)]
    groups.write_text("\n".join(["file,camera", *rows]))
    detector = copy.copy(digits_detector).calibrate(assign_groups(calibration, f"{groups}:camera"))
    images = assign_groups(images, f"{groups}:camera")
    write(tmp_path / "r.html", detector, images)
    with open_page(browser, tmp_path / "r.html") as opened:
        assert opened.locator('[data-live="threshold"]').first.inner_text().startswith("p ≤ 0.0")
        flagged = opened.locator('[data-live="flagged-detail"]')
        assert flagged.inner_text() == f"{int(detector.predict(images).label.sum())} of 80 images"
        opened.locator("#threshold").focus()
        for _ in range(30):
            opened.keyboard.press("ArrowLeft")
        opened.wait_for_function("!document.querySelector('#moved').hidden")
        rate = float(opened.locator('[data-live="command"]').inner_text().split()[-1])
        scores, expected = detector.score(images), 0
        for name, part in detector.decisions_.parts.items():
            assert isinstance(part.calibration, CalibrationScores)
            own = scores[np.array(images.groups) == name]
            expected += int((own > part.calibration.threshold(rate, None)).sum())
        assert flagged.inner_text() == f"{expected} of 80 images"


def test_no_images_are_no_error(digits_detector: Detector, digits: DataSet, tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", digits_detector, digits.test.subset(np.arange(0)))
    assert "0 of 0 images" in page.text["dd"]

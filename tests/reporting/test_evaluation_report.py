"""The page of an evaluation."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_pages import Page, digits_evaluation

from oddlens.config.base import DecisionSettings
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector.detector import Detector
from oddlens.evaluation.diagnosis import Diagnosis
from oddlens.evaluation.evaluate import Evaluation, evaluate
from oddlens.evaluation.test_sets import build_test_set
from oddlens.metrics import rate_interval
from oddlens.reporting import evaluation_report
from oddlens.reporting.evaluation_report import write_evaluation_report
from oddlens.reporting.evaluation_tables import describe_metrics
from oddlens.reporting.html import Share
from oddlens.reporting.score_data import ScoredImages


@pytest.fixture(scope="module")
def distorted(digits_detector: Detector, digits: DataSet) -> Evaluation:
    return evaluate(digits_detector, build_test_set(digits, digits_detector.spec, seed=0, distort=True))


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, digits: DataSet) -> Evaluation:
    return digits_evaluation(digits_detector, digits.test.load(digits_detector.spec))


def write(path: Path, detector: Detector, evaluation: Evaluation, **more: object) -> Page:
    write_evaluation_report(path, "Digits", detector, evaluation, "oddlens eval <digits>", "d.safetensors", **more)  # type: ignore[arg-type]
    return Page(path)


def test_the_page_has_the_description_the_guarantee_the_lot_test_and_the_provenance(
    digits_detector: Detector, distorted: Evaluation, tmp_path: Path
) -> None:
    page = write(tmp_path / "r.html", digits_detector, distorted, history=[{"epoch": 1, "loss": 2.0}])
    assert list(tmp_path.iterdir()) == [tmp_path / "r.html"]
    source = html.unescape(page.source)
    assert describe_metrics(distorted.metrics, True) in source
    assert digits_detector.decisions_.promises()[0] in source
    assert "Lot test: as a whole, the" in source
    assert page.text["dd"][-9:][0] == "oddlens eval <digits>"
    assert digits_detector.manifest.data.fingerprint in source
    headings = [heading.strip() for heading in page.text["h2"]]
    for heading in ("Scores and threshold", "Ranking", "Kinds of images", "Images", "Training"):
        assert heading in headings
    assert "Why some kinds are missed" in headings
    assert page.data["history"] == [{"epoch": 1, "loss": 2.0}]
    assert len(page.data["images"]) == 600 < page.data["n"]
    assert f"600 of {page.data['n']:,} images are shown" in source


def test_the_figures_at_the_top_are_those_of_the_metrics_with_intervals(evaluation: Evaluation) -> None:
    tiles = {tile.name: tile for tile in evaluation_report.key_figures(evaluation)}
    metrics = evaluation.metrics
    assert tiles["Anomalies caught"].value == f"{metrics['detection_rate']:.1%}"
    low, high = metrics["false_alarm_rate_measured_ci"]
    assert tiles["False alarms"].detail.endswith(f"95%: {low:.1%} to {high:.1%}")
    assert tiles["Guaranteed"].value == f"≤ {100 * metrics['guaranteed_rate']:.3g}%"
    assert tiles["Image AUROC"].value == f"{metrics['image_auroc']:.3f}"
    assert tiles["Pixel AUROC"].detail == f"AUPRO {metrics['aupro']:.3f}"


def test_each_kind_has_its_share_with_its_interval(evaluation: Evaluation) -> None:
    scored = ScoredImages.of_evaluation(evaluation)
    rows = evaluation_report.shares_table(evaluation, scored).rows
    assert [row[0] for row in rows] == ["good (normal)", "bright bar", "dark bar"]
    share = rows[1][2]
    assert isinstance(share, Share)
    rate = evaluation.metrics["per_class"]["bright_bar"]["detection_rate"]
    assert (share.value, share.low, share.high) == (rate, *rate_interval(round(15 * rate), 15))
    assert rows[0][3] is None
    assert str(rows[1][3]).startswith(f"{evaluation.metrics['per_class']['bright_bar']['auroc']:.3f} (")


def test_a_detector_without_a_guarantee_says_so(
    digits_detector: Detector, evaluation: Evaluation, tmp_path: Path
) -> None:
    import copy

    detector = copy.copy(digits_detector).set_decision(DecisionSettings(method="train_percentile"))
    page = write(tmp_path / "r.html", detector, replace(evaluation, decisions=detector.decisions_))
    assert "nothing" in page.text["dd"]
    assert page.data["guaranteed"] is None
    assert "no guarantee" in page.source


@pytest.mark.parametrize("label", [0, 1])
def test_a_test_set_of_one_label_is_reported_without_what_it_cannot_give(
    label: int, digits_detector: Detector, evaluation: Evaluation, tmp_path: Path
) -> None:
    images = evaluation.images.subset(np.flatnonzero(evaluation.labels == label))
    page = write(tmp_path / "r.html", digits_detector, evaluate(digits_detector, images))
    source = html.unescape(page.source)
    measured, missing = ("normal test images. ", "no detection rate, AUROC or average precision")
    if label:
        measured, missing = (f"of {len(images)} anomalous images.", "no false-alarm rate, AUROC or average precision")
    assert measured in source
    assert missing in source
    assert "not measured" in page.text["dd"]
    assert "Ranking" not in page.text["h2"]


def test_the_report_says_that_a_lot_has_shifted(digits_detector: Detector, digits: DataSet, tmp_path: Path) -> None:
    pixels = digits.test.load(digits_detector.spec)[:60]
    for name, images in (("same", pixels), ("negative", 255 - pixels)):
        evaluation = evaluate(digits_detector, ImageSet.from_array(images))
        page = write(tmp_path / f"{name}.html", digits_detector, evaluation)
        assert page.source.count("differ from the calibration images as a whole") == (name == "negative")
        assert ("Lot test: as a whole" in page.source) == (name == "same")
        assert "normal test images are flagged" not in page.source, "one warning is enough"


def test_the_report_says_that_too_many_are_flagged_where_no_lot_is_tested(
    digits_detector: Detector, digits: DataSet, tmp_path: Path
) -> None:
    pixels = digits.test.load(digits_detector.spec)[:20].copy()
    for name, count in (("same", 0), ("some", 5)):
        pixels[:count] = 255 - pixels[:count]
        page = write(tmp_path / f"{name}.html", digits_detector, evaluate(digits_detector, ImageSet.from_array(pixels)))
        assert "Lot test: not made" in page.source
        assert ("of 20 normal test images are flagged" in page.source) == (name == "some")


def test_findings_of_the_data_check_are_listed_with_the_gravest_first(
    digits_detector: Detector, evaluation: Evaluation, digits: DataSet, tmp_path: Path
) -> None:
    diagnosis = Diagnosis(digits)
    diagnosis.add("note", "sizes", "differ <much>")
    diagnosis.add("warning", "leak", "test images resemble training images")
    page = write(tmp_path / "r.html", digits_detector, evaluation, diagnosis=diagnosis)
    section = page.source[page.source.index("Data check") :]
    assert section.index("leak") < section.index("differ &lt;much&gt;")
    assert evaluation_report.findings_section(Diagnosis(digits)).text == "No problems with the data."


def test_the_command_quotes_what_a_shell_would_read() -> None:
    assert evaluation_report.threshold_command("a b; rm.onnx").startswith("oddlens threshold 'a b; rm.onnx' ")

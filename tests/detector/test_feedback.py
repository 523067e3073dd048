"""Feedback: tables of judgements, and the proposals that follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_image

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.data.image_set import DataSet
from oddlens.detector import feedback
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError


def test_the_rate_that_catches_a_missed_image_catches_it(
    digits_detector: Detector, saved: Path, digits: DataSet
) -> None:
    verdicts = digits_detector.predict(digits.test)
    indices = np.argsort(np.where(verdicts.label == 1, -np.inf, verdicts.anomaly_score))[-3:][::-1]
    missed = digits.test.subset(indices)
    missed = replace(missed, labels=np.ones(3, dtype=np.int8))
    notes = feedback.propose(Detector.load(saved), missed, "x").notes
    for number, (score, note) in enumerate(zip(verdicts.anomaly_score[indices], notes, strict=True), 1):
        assert note.startswith(f"catching {number} of the 3 missed")
        rate = verdicts.p_value[indices[number - 1]]
        assert note.endswith(f"{rate:.2%}")
        settings = DecisionSettings(false_alarm_rate=min(rate * 1.0000001, 0.999))
        scores = digits_detector.decision_.calibration_scores
        assert Decision(settings, scores, np.empty(0)).threshold < score


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("", DataError, r"has no column 'file' \(its columns: none\); it needs file, judgement"),
        ("file,judgement\n", DataError, "contains no judgement; add rows"),
        ("file,verdict\na.png,missed\n", DataError, "has no column 'judgement'"),
        ("file,judgement\n000.png,perhaps\n", DataError, "line 2: 'perhaps' is not a judgement"),
        ("file,judgement\nnowhere.png,missed\n", DataNotFoundError, "line 2: nowhere.png does not exist"),
        ("file,judgement\n,missed\n", DataNotFoundError, "line 2: names no file"),
        ("file,judgement\n000.png\n", DataError, "line 2: '' is not a judgement"),
        ("file,judgment\n000.png,missed\n", DataError, r"\(its columns: file, judgment\); rename 'judgment' if it is"),
        ("file,judgement\n" + "x" * 5000 + ",missed\n", DataNotFoundError, "line 2: x{500} does not exist"),
        (
            "file,judgement\nM\u201erz.png,missed\n",
            DataNotFoundError,
            "image, or save the table as UTF-8",
        ),
    ],
)
def test_a_wrong_table_of_judgements_is_refused_with_its_line(
    text: str, error: type[Exception], match: str, tmp_path: Path
) -> None:
    write_image(tmp_path / "000.png")
    path = tmp_path / "judged.csv"
    path.write_text(text)
    with pytest.raises(error, match=match):
        feedback.read_judged(path)


def test_judgements_are_read_with_their_labels_and_paths(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{number}.png") for number in range(4)]
    path = tmp_path / "judged.csv"
    path.write_text(f"file,judgement\n0.png,False_Alarm\n{files[1]},normal\n2.png,missed\n3.png, ANOMALY \n")
    images = feedback.read_judged(path)
    assert images.names == tuple(map(str, files))
    assert images.labels.tolist() == [0, 0, 1, 1]


def test_a_table_from_a_spreadsheet_on_another_system_is_read(tmp_path: Path) -> None:
    files = [write_image(tmp_path / name) for name in ("a/0.png", "a/1.png", "Ma\u0308rz.png", "3.png")]
    path = tmp_path / "judged.csv"
    rows = ("a\\0.png;Normal;3,5", ".\\a\\1.png;FALSE-ALARM;", "M\u00e4rz.png;missed;", "./3.png;anomaly", ";;")
    path.write_text("\r\n".join(("sep=;", " File ;JUDGEMENT;Score", *rows)), encoding="utf-8-sig", newline="")
    images = feedback.read_judged(path)
    assert [Path(name).resolve() for name in images.names] == files
    assert images.labels.tolist() == [0, 0, 1, 1]


def test_only_normal_images_join_the_calibration(digits_detector: Detector, saved: Path, digits: DataSet) -> None:
    detector = Detector.load(saved)
    judged = replace(digits.test.subset(np.arange(10)), labels=np.repeat([0, 1], 5).astype(np.int8))
    proposal = feedback.propose(detector, judged, "judged.csv")
    assert proposal.added == 5
    rows = {what: (before, after) for what, before, after in proposal.rows}
    count = digits_detector.manifest.data.n_calibration
    assert rows["calibration images"] == (count, count + 5)
    assert rows["judged normal, flagged"][0].endswith("of 5")


def test_reviewing_only_false_alarms_is_noted_as_biased() -> None:
    assert "biases the calibration" in feedback.notes(True, np.empty(0))[0]
    assert feedback.notes(False, np.empty(0)) == ()
    missed = np.linspace(0.01, 0.2, 7)
    notes = feedback.notes(False, missed)
    assert len(notes) == feedback.MAX_MISSED_SHOWN
    assert notes[0] == "catching 1 of the 7 missed takes a false-alarm rate of 1.00%"


@pytest.mark.parametrize(
    ("name", "existing", "expected"),
    [
        ("part.onnx", [], "part-v2.onnx"),
        ("part-v2.onnx", [], "part-v3.onnx"),
        ("part.onnx", ["part-v2.onnx", "part-v3.onnx"], "part-v4.onnx"),
        ("line-vier.onnx", [], "line-vier-v2.onnx"),
    ],
)
def test_the_next_version_is_the_first_that_does_not_exist(
    name: str, existing: list[str], expected: str, tmp_path: Path
) -> None:
    for other in existing:
        (tmp_path / other).touch()
    assert feedback.next_version(tmp_path / name) == tmp_path / expected

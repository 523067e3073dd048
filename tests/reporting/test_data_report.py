"""The HTML report of the data checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wave_images import build_dataset, finding_names, wave_images

from oddlens.data.image_set import DataSet, ImageSet
from oddlens.evaluation import data_checks
from oddlens.evaluation.diagnosis import Diagnosis, Finding
from oddlens.reporting import data_report


def test_the_report_shows_every_finding_with_images_and_what_they_resemble(tmp_path: Path) -> None:
    train = wave_images(120, 120, 0)
    leaking = build_dataset(np.concatenate([train, train[:3]]), train[5:20], wave_images(15, 120, 2))
    diagnosis = data_checks.check(leaking)
    page = data_report.write_data_report(tmp_path / "check.html", diagnosis, "oddlens check <waves>").read_text()
    assert {"duplicates", "leak"} <= finding_names(diagnosis)
    for finding in diagnosis.findings:
        assert f"{finding.level.capitalize()}: {finding.name}" in page
    assert "resembles" in page
    assert "oddlens check &lt;waves&gt;" in page
    assert page.count("data:image/png;base64,") >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["check.html"]


def test_a_clean_data_set_has_no_problems(tmp_path: Path) -> None:
    clean = build_dataset(wave_images(400, 120, 0), wave_images(30, 120, 1), wave_images(30, 120, 2))
    path = data_report.write_data_report(tmp_path / "check.html", data_checks.check(clean), "oddlens check waves")
    assert "No problems found" in path.read_text()


def test_errors_come_before_warnings_and_notes_and_are_counted(tmp_path: Path) -> None:
    diagnosis = data_checks.check(build_dataset(*(wave_images(n, 120, n) for n in (400, 30, 29))))
    for level, name in (("note", "c"), ("error", "a"), ("warning", "b"), ("error", "d")):
        diagnosis.add(level, name, f"text of {name}")  # type: ignore[arg-type]
    page = data_report.write_data_report(tmp_path / "check.html", diagnosis, "oddlens check waves").read_text()
    assert "2 errors, 1 warning, 1 note." in page
    headings = ["Error: a", "Error: d", "Warning: b", "Note: c"]
    assert sorted(headings, key=page.index) == headings


@pytest.fixture
def diagnosis() -> Diagnosis:
    return Diagnosis(build_dataset(wave_images(60, 120, 0), wave_images(1, 120, 1), wave_images(1, 120, 2)))


def test_long_lists_of_files_are_limited(diagnosis: Diagnosis) -> None:
    finding = Finding("note", "unusual", "look at them", tuple(f"train[{i}]" for i in range(60)))
    section = data_report.finding_section(finding, diagnosis)
    assert section.text == "Look at them. The table lists the first 40 of 60 files."
    assert section.table is not None
    assert len(section.table.rows) == data_report.MAX_TABLE_ROWS
    assert [thumbnail.caption for thumbnail in section.thumbnails] == [f"train[{i}]" for i in range(18)]


def test_what_sets_images_apart_is_beside_them(diagnosis: Diagnosis) -> None:
    finding = Finding("warning", "unlike the others", "look", ("train[3]", "train[1]"), reasons=("brighter", "wider"))
    section = data_report.finding_section(finding, diagnosis)
    assert section.table is not None
    assert section.table.columns == ("file", "what sets it apart")
    assert section.table.rows == (("train[3]", "brighter"), ("train[1]", "wider"))
    assert [thumbnail.caption for thumbnail in section.thumbnails] == ["train[3]", "train[1]"]


def test_files_that_are_not_images_are_listed_without_images(diagnosis: Diagnosis) -> None:
    section = data_report.finding_section(Finding("warning", "stray masks", "1 mask", ("x.png",)), diagnosis)
    assert section.thumbnails == ()
    assert section.table is not None
    assert section.table.rows == (("x.png",),)


def test_an_image_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    train = ImageSet(("broken.png",), ("good",), np.zeros(1, dtype=np.int8), (str(tmp_path / "broken.png"),), (None,))
    test = ImageSet.from_array(wave_images(1, 120, 1), name="test")
    diagnosis = Diagnosis(DataSet("waves", train, test, "good"))
    assert data_report.load_image(diagnosis, "broken.png") is None
    assert data_report.load_image(diagnosis, "missing.png") is None
    assert data_report.load_image(diagnosis, "test[0]") is not None


@pytest.mark.parametrize(
    ("shape", "expected"), [((40, 60, 3), (40, 60, 3)), ((600, 1200, 1), (128, 256, 1)), ((5000, 2, 3), (256, 1, 3))]
)
def test_large_images_are_shrunk_before_they_are_drawn(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    pixels = np.full((1, *shape), 3000, dtype=np.uint16)
    images = ImageSet.from_array(pixels, name="train")
    image = data_report.load_image(Diagnosis(DataSet("large", images, images, "good")), "train[0]")
    assert image is not None
    assert image.shape == expected
    assert image.dtype == np.uint16
    assert (image == 3000).all()


@pytest.mark.parametrize(("value", "white"), [(3000, 4095), (5000, 65535)])
def test_deep_images_are_shown_on_the_scale_of_their_bits(value: int, white: int) -> None:
    assert data_report.gray_range(np.full((4, 4, 1), value, dtype=np.uint16)) == white
    assert data_report.gray_range(np.full((4, 4, 1), 200, dtype=np.uint8)) == 255

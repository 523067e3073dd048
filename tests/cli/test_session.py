"""What commands share: threads and memory of the process, unreadable images, groups, decisions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import write_image

from oddlens.cli import session
from oddlens.cli.console import Console
from oddlens.config.base import DecisionSettings
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError, UnreadableImageError


@pytest.fixture
def restored_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    """Restore PyTorch's number of threads and the environment after the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
def test_threads_are_set_for_pytorch_and_for_libraries_that_are_imported_later() -> None:
    assert session.set_threads(3) == 3
    assert torch.get_num_threads() == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("value", "threads"), [("4", 4), ("4,2", None), ("0", None), ("many", None), ("", None)])
def test_without_the_option_a_plain_number_in_the_environment_counts(
    value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert session.set_threads(None) == threads
    assert os.environ["OMP_NUM_THREADS"] == value


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_without_work_soon_sleep_unless_the_environment_says_otherwise(
    environment: dict[str, str], count: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    session.set_threads(None)
    assert os.environ.get("GOMP_SPINCOUNT") == count


def test_waiting_for_a_processor_is_counted_where_the_system_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, seconds in (("5000 2500000000 17\n", 2.5), ("", None), ("no numbers", None)):
        (tmp_path / "schedstat").write_text(content)
        monkeypatch.setattr(session, "SCHEDULER_STATISTICS", tmp_path / "schedstat")
        assert session.waiting_seconds() == seconds
    monkeypatch.setattr(session, "SCHEDULER_STATISTICS", tmp_path / "none")
    assert session.waiting_seconds() is None


@pytest.mark.parametrize("skips", [True, False])
def test_only_a_command_that_can_leave_images_out_suggests_it(skips: bool) -> None:
    with pytest.raises(UnreadableImageError) as raised, session.command(True, None, skips=skips):
        raise UnreadableImageError("seven.png", "is not an image")
    assert ("--skip-unreadable" in str(raised.value)) == skips


def test_the_progress_bar_is_closed_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Console, "close", lambda console: closed.append(console))
    with pytest.raises(ZeroDivisionError), session.command(False, None) as console:
        raise ZeroDivisionError
    assert closed == [console]


def test_unreadable_images_are_left_out_on_request_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, broken = write_image(tmp_path / "good.png"), tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    images = ImageSet.from_files([good, broken], kind="")
    assert session.drop_unreadable(images, False, Console(True)) == (images, [])
    readable, skipped = session.drop_unreadable(images, True, Console(True))
    assert readable.names == (str(good),)
    assert skipped == [str(broken)]
    assert capsys.readouterr().err.startswith(f"left out: {broken}")


def test_groups_are_refused_for_a_detector_with_one_threshold(digits_detector: Detector) -> None:
    images = ImageSet.from_array(np.zeros((2, 8, 8, 1), dtype=np.uint8))
    assert session.with_groups(images, None, digits_detector) is images
    with pytest.raises(SettingsError, match="has one threshold for all images: leave --group-by out"):
        session.with_groups(images, "folder", digits_detector)


PERCENTILE = DecisionSettings(method="train_percentile", train_percentile=90)
CONFIDENT = DecisionSettings(false_alarm_rate=0.05, confidence=0.9)


@pytest.mark.parametrize(
    ("current", "changes", "expected"),
    [
        (PERCENTILE, (0.1, None, False, None), {"method": "conformal", "false_alarm_rate": 0.1}),
        (PERCENTILE, (None, 0.8, False, None), {"method": "conformal", "confidence": 0.8}),
        (CONFIDENT, (None, None, True, None), {"false_alarm_rate": 0.05, "confidence": None}),
        (CONFIDENT, (0.1, None, False, None), {"false_alarm_rate": 0.1, "confidence": 0.9}),
        (CONFIDENT, (None, None, False, 95.0), {"method": "train_percentile", "train_percentile": 95.0}),
    ],
)
def test_a_decision_is_changed_as_requested(
    current: DecisionSettings,
    changes: tuple[float | None, float | None, bool, float | None],
    expected: dict[str, object],
) -> None:
    assert session.changed_decision(current, *changes) == current.model_copy(update=expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((None, 0.9, True, None), "--on-average and --confidence contradict each other"),
        ((0.1, None, False, 95.0), "guarantees no rate; leave --train-percentile out"),
        ((1.5, None, False, None), "'false_alarm_rate'"),
    ],
)
def test_changes_that_contradict_each_other_are_refused(
    changes: tuple[float | None, float | None, bool, float | None], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        session.changed_decision(CONFIDENT, *changes)


def test_the_command_line_is_quoted_as_a_shell_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/oddlens", "score", "my part.onnx"])
    assert session.command_line() == "oddlens score 'my part.onnx'"

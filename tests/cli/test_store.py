"""`oddlens store`, and `--from-store` of calibrate and feedback: what people type, and what goes wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import error_of, oddlens, run_json
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.store import schema
from oddlens.store.database import Database, parse_url
from oddlens.store.inspection import make_inspections
from oddlens.store.open import open_store
from oddlens.store.store import Store


@pytest.fixture(scope="module")
def digit_contents(digits: DataSet) -> list[bytes]:
    """The contents of 150 PNG files of digits that `digits_detector` was not fitted on."""
    contents = []
    for i in range(150):
        buffer = io.BytesIO()
        Image.fromarray(digits.test.image(i)[:, :, 0]).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


@pytest.fixture
def address(tmp_path: Path) -> str:
    """The address of the store of these tests."""
    return f"sqlite:///{tmp_path}/parts.db"


@pytest.fixture
def store(address: str, exported: Path, digit_contents: list[bytes]) -> Iterator[Store]:
    """A store with the inspections of the digits, as a service adds them."""
    detector = Detector.load(exported, threads=1)
    made = make_inspections(detector, detector.predict(digit_contents), name="digits", batch_size=150, lot="A")
    with open_store(address) as store:
        store.add_detector(detector, exported)
        store.add_batch([(one, content, None) for one, content in zip(made, digit_contents, strict=True)])
        yield store


def test_inspections_are_exported(store: Store, address: str, tmp_path: Path) -> None:
    store.judge(3, "anomaly", person="Ann")
    output = tmp_path / "out.csv"
    result = run_json("store", "export", "--store", address, "-o", output)
    assert result == {"n": 150, "n_without_image": 0, "files": {"export": str(output)}}
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(i) for i in range(1, 151)]
    assert rows[2]["judgement"] == "anomaly"
    for options, count in (
        (["--judgement", "any"], 1),
        (["--lot", "A", "--until", "2000-01-01"], 0),
        (["--since", "2000-01-01T12:00", "--lot", "A"], 150),
        (["--station", "s"], 0),
        (["--part", "p"], 0),
    ):
        assert run_json("store", "export", "--store", address, "-o", output, *options)["n"] == count
    done = oddlens(
        "store", "export", "--store", tmp_path / "parts.db", "-o", tmp_path / "tasks.json", "--verdict", "normal"
    )
    assert done.stdout.endswith(f"inspections written to {tmp_path / 'tasks.json'}\n")


def test_what_a_format_lacks_is_said(store: Store, address: str, tmp_path: Path) -> None:
    store.prune(keep_gb=0)
    done = oddlens("store", "export", "--store", address, "-o", tmp_path / "tasks.json")
    assert "left out: 150 inspections whose image has expired" in done.stderr


def test_old_images_are_pruned_after_a_dry_run(store: Store, address: str) -> None:
    before = run_json("store", "prune", "--store", address, "--keep-gb", 0.00001, "--dry-run")
    assert before["dry_run"] is True
    assert before["expired"] > 0
    assert store.inspection(1).image_stored
    done = oddlens("store", "prune", "--store", address, "--keep-gb", 0.00001)
    assert f"removed: {before['expired']} files" in done.stdout
    assert f"{before['remaining']} files remain" in done.stdout
    assert not store.inspection(1).image_stored
    assert run_json("store", "prune", "--store", address)["expired"] == 0


def test_a_verdict_is_audited(store: Store, address: str) -> None:
    store.judge(2, "anomaly", person="Ann", reason="a scratch")
    result = run_json("store", "audit", 2, "--store", address)
    assert result["repeated"]["agrees"] is True
    assert result["repeated"]["same_bits"] is True
    assert result["inspection"]["name"] == "array[1]"
    assert result["judgements"][0]["reason"] == "a scratch"
    done = oddlens("store", "audit", 2, "--store", address)
    assert done.returncode == 0
    assert "anomaly, Ann, " in done.stdout
    assert "(the same bits)" in done.stdout
    assert done.stdout.count(repr(store.inspection(2).anomaly_score)) == 3


def test_an_expired_image_is_said_with_exit_code_0(store: Store, address: str) -> None:
    store.prune(keep_gb=0)
    result = run_json("store", "audit", 1, "--store", address)
    assert (result["repeated"], result["reason"]) == (None, "the image and the detector have expired")
    assert (
        "not repeated: the image and the detector have expired"
        in oddlens("store", "audit", 1, "--store", address).stdout
    )


def test_a_verdict_that_is_not_repeated_is_exit_code_1_with_both(
    store: Store, address: str, exported: Path, digit_contents: list[bytes]
) -> None:
    detector = Detector.load(exported, threads=1)
    (one,) = make_inspections(detector, detector.predict(digit_contents[:1]), name="digits", batch_size=1)
    other = "normal" if one.verdict == "anomaly" else "anomaly"
    object.__setattr__(one, "verdict", other)
    number = store.add(one, digit_contents[0])
    done = oddlens("store", "audit", number, "--store", address)
    assert done.returncode == 1
    assert f"recorded: {other}" in done.stdout
    assert f"repeated: {'normal' if other == 'anomaly' else 'anomaly'}" in done.stdout
    assert "not repeated" in done.stderr
    assert oddlens("store", "audit", number, "--store", address, "--json").returncode == 1


def test_an_older_store_is_migrated_with_a_word(store: Store, address: str) -> None:
    store.close()
    database = Database(parse_url(address)[0])
    with database.write() as session:
        schema.migrate(session.connection(), "0001")
    database.close()
    done = oddlens("store", "prune", "--store", address)
    assert done.returncode == 0
    assert "an older oddlens made this store; migrated from version 0001" in done.stderr


def test_a_store_that_does_not_exist_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    for command in (["audit", 1], ["prune"], ["export", "-o", tmp_path / "x.csv"]):
        assert "parts.db: does not exist" in error_of("store", *command, "--store", f"{tmp_path}/parts.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["audit", 999], 1, "there is no inspection 999; check its id"),
        (["audit", "x"], 2, "to parse string as an integer"),
        (["prune", "--keep-days", -1], 2, "--keep-days"),
        (["export", "-o", "x.txt"], 1, "must end in .csv, .parquet or .json"),
        (["export", "-o", "x.csv", "--since", "yesterday"], 2, "is not a date or time"),
        (["export", "-o", "x.csv", "--verdict", "bad"], 2, "--verdict"),
    ],
)
def test_wrong_usage_is_said(store: Store, address: str, arguments: list[Any], code: int, problem: str) -> None:
    message = error_of("store", *arguments, "--store", address, code=code)
    assert problem in " ".join(message.replace("│", " ").split())


def test_an_export_does_not_replace_the_store(store: Store, tmp_path: Path) -> None:
    (tmp_path / "parts.csv").symlink_to(tmp_path / "parts.db")
    (tmp_path / "parts.db").rename(tmp_path / "store.csv")
    (tmp_path / "parts.db.files").rename(tmp_path / "store.csv.files")
    address = str(tmp_path / "store.csv")
    assert "is read by this command" in error_of("store", "export", "--store", address, "-o", address)


def judge_all(store: Store, normal: int, anomalous: int) -> None:
    for number in range(1, normal + 1):
        store.judge(number, "normal", person="Ann")
    for number in range(normal + 1, normal + anomalous + 1):
        store.judge(number, "anomaly", person="Ann")


def test_a_detector_is_calibrated_on_what_people_judged_normal(
    store: Store, address: str, exported: Path, tmp_path: Path
) -> None:
    judge_all(store, 110, 3)
    new = tmp_path / "new.onnx"
    result = run_json("calibrate", exported, "--from-store", address, "-o", new)
    assert result["n_calibration"] == 110
    source = Detector.load(new).manifest.data.calibration_source
    assert source == f"judged normal in {tmp_path}/parts.db"
    scores = sorted(store.inspection(number).anomaly_score for number in range(1, 111))
    assert Detector.load(new).decision_.calibration_scores == pytest.approx(scores, rel=1e-6)


def test_feedback_proposes_from_a_store(store: Store, address: str, exported: Path, tmp_path: Path) -> None:
    judge_all(store, 40, 3)
    new = tmp_path / "new.onnx"
    result = run_json("feedback", exported, "--from-store", address, "-o", new)
    assert result["added"] == 40
    changes = {row["what"]: row["after"] for row in result["changes"]}
    assert changes["judged anomalous, caught"].endswith("of 3")
    assert f"judged normal: {tmp_path}/parts.db" in Detector.load(new).manifest.data.calibration_source


@pytest.mark.parametrize("command", ["calibrate", "feedback"])
def test_a_store_takes_the_place_of_files(
    command: str, store: Store, address: str, exported: Path, tmp_path: Path
) -> None:
    output = ["-o", tmp_path / "new.onnx"]
    assert "--from-store" in error_of(command, exported, *output, code=2)
    assert "--from-store" in error_of(command, exported, tmp_path, "--from-store", address, *output, code=2)
    message = error_of(command, exported, "--from-store", address, "--group-by", "folder", *output, code=2)
    assert "--group-by" in message
    assert "contains no image of this detector that was judged" in error_of(
        command, exported, "--from-store", address, *output
    )
    assert "does not exist" in error_of(command, exported, "--from-store", tmp_path / "x.db", *output)
    assert not (tmp_path / "new.onnx").exists()

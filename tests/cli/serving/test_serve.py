from __future__ import annotations

import getpass
import shutil
from pathlib import Path

import pytest
from command_line import error_of, invoke
from running_service import noise, running
from stored_inspections import DETECTOR_FILE, DIGEST, save_other

from oddlens.errors import OddlensError
from oddlens.store.open import open_store


def test_the_store_is_beside_the_detector_unless_another_is_named(tmp_path: Path) -> None:
    part = shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx")
    with running(part, "--threads", 1, "--keep-days", 30) as service:
        assert service.store == str(tmp_path / "inspections.db")
        assert service.post("a.png", noise()).json()["inspections"][0]["detector"] == "part"


def test_what_cannot_be_served_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for arguments, reason in (
        ((tmp_path / "missing.onnx",), "missing.onnx"),
        ((DETECTOR_FILE, "--store", tmp_path / "a.db", "--no-store"), "contradict"),
        ((DETECTOR_FILE, "--no-store", "--host", "0.0.0.0"), "--token-file"),
        ((DETECTOR_FILE, "--no-store", "--token-file", tmp_path / "missing"), "token"),
        ((DETECTOR_FILE, "--no-store", "--keep-days", 1), "--no-store"),
        ((DETECTOR_FILE, "--no-store", "--max-mb", "nan"), "--max-mb"),
    ):
        with pytest.raises(OddlensError, match=reason):
            invoke("serve", *arguments)


def test_without_detectors_it_serves_a_folder_of_photographs_and_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with running("--root", tmp_path / "photos", "--store", tmp_path / "parts.db") as service:
        assert service.client.get("/v2/health/ready").json() == {"ready": True}
        assert service.client.get("/v1/detectors").json() == []
        for answer in (service.post("a.png", noise()), service.client.get("/v2/models/part")):
            assert answer.status_code == 404
            assert "no detector is in service yet" in answer.json()["error"]
        assert service.stop() == (0, "")


def test_the_default_store_is_never_among_the_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    part = shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx")
    for detectors in ((), (part,)):
        with pytest.raises(OddlensError, match=r"inspections\.db: would lie below --root .*--store"):
            invoke("serve", *detectors, "--root", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["part.onnx"]


def test_nothing_to_serve_is_an_error() -> None:
    assert "name a detector (part.onnx), or a folder with --root" in error_of("serve")


def test_what_people_put_into_service_serves_after_a_restart_and_is_named(tmp_path: Path) -> None:
    store = tmp_path / "parts.db"
    with running(DETECTOR_FILE, "--store", store) as service:
        assert service.stop() == (0, "")
    with open_store(str(store)) as opened:
        assert [one.person for one in opened.deployments()] == ["command line"]
        other = save_other(tmp_path / "other.onnx")
        opened.add_detector(other, tmp_path / "other.onnx")
        for name in ("tiles", "bolt"):
            opened.deploy(name, other.manifest.digest, person="Ann")
    with running(DETECTOR_FILE, "--store", store) as service:
        served = {one["name"]: one["digest"] for one in service.client.get("/v1/detectors").json()}
        assert served == {"tiles": other.manifest.digest, "bolt": other.manifest.digest}
        assert service.post("a.png", noise(), detector="bolt").json()["inspections"][0]["detector"] == "bolt"
        assert service.client.post("/v1/detectors/bolt/reload").status_code == 409
        assert service.client.post("/v1/detectors/tiles/reload").json()["digest"] == DIGEST
        code, errors = service.stop()
    with open_store(str(store)) as opened:
        assert opened.deployments("tiles")[0].person == getpass.getuser(), "whoever read the file again"
    assert code == 0
    assert errors.startswith(f"tiles: the detector {other.manifest.digest} serves, which Ann put into service")

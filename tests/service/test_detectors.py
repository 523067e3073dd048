from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import cycle
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi import FastAPI
from running_service import noise, serving, settings
from stored_inspections import DETECTOR_FILE, DIGEST, save_other

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, OddlensError, SettingsError, StateError
from oddlens.service.detectors import COMMAND_LINE, ServedDetectors
from oddlens.service.inspecting import Tags, Upload, inspect
from oddlens.service.service import Service
from oddlens.store.contents import sha256
from oddlens.store.open import open_store
from oddlens.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with open_store(str(tmp_path / "parts.db")) as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a detector."""
    return Path(shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx"))


@pytest.fixture
def other(store: Store, tmp_path: Path) -> str:
    """The digest of another detector, which is in the store."""
    detector = save_other(tmp_path / "other.onnx")
    store.add_detector(detector, tmp_path / "other.onnx")
    return detector.manifest.digest


def digests(served: ServedDetectors) -> dict[str, str]:
    return {name: served[name].manifest.digest for name in served.names}


def recorded(store: Store) -> list[tuple[str, str, str]]:
    """Names, digests and persons of all deployments, oldest first."""
    return [(one.name, one.detector_digest, one.person) for one in store.deployments()][::-1]


def test_a_detector_is_replaced_by_what_its_file_has_now_or_goes_on(path: Path) -> None:
    served = ServedDetectors({"part": path}, None)
    first = served["part"]
    assert (served.names, "part" in served, "other" in served) == (["part"], True, False)
    path.write_bytes(b"no detector")
    with pytest.raises(ArtifactError):
        served.reload("part", person="Ann")
    assert served["part"] is first
    shutil.copy(DETECTOR_FILE, path)
    assert served.reload("part", person="Ann") is served["part"] is not first
    assert served["part"].manifest.digest == DIGEST


def test_a_file_that_never_served_under_its_name_is_put_into_service(path: Path, store: Store) -> None:
    served = ServedDetectors({"part": path, "bolt": path}, store)
    assert (digests(served), served.remarks) == ({"part": DIGEST, "bolt": DIGEST}, [])
    assert recorded(store) == [("part", DIGEST, COMMAND_LINE), ("bolt", DIGEST, COMMAND_LINE)]
    ServedDetectors({"part": path, "bolt": path}, store)
    assert len(store.deployments()) == 2
    other = save_other(path).manifest.digest
    assert digests(ServedDetectors({"part": path}, store)) == {"part": other}
    assert recorded(store)[2:] == [("part", other, COMMAND_LINE)]


def test_a_restart_undoes_no_deployment_and_says_so(path: Path, other: str, store: Store) -> None:
    served = ServedDetectors({"part": path}, store)
    assert served.deploy("part", other, person="Ann", reason="fewer misses") is served["part"]
    again = ServedDetectors({"part": path}, store)
    assert digests(again) == {"part": other}
    (remark,) = again.remarks
    assert remark.startswith(f"part: the detector {other} serves, which Ann put into service on ")
    assert remark.endswith(
        f"not {path}, which served before; to serve the file again, post to /v1/detectors/part/reload"
    )
    again.reload("part", person="Bob")
    assert digests(again) == digests(ServedDetectors({"part": path}, store)) == {"part": DIGEST}
    assert recorded(store)[1:] == [("part", other, "Ann"), ("part", DIGEST, "Bob")]


def test_names_that_people_deployed_serve_without_the_command_line(path: Path, other: str, store: Store) -> None:
    """A name that only the command line deployed ends with it: a service of one detector stays one of one."""
    served = ServedDetectors({"old": path, "part": path}, store)
    served.deploy("bolt", other, person="Ann")
    served.deploy("part", DIGEST, person="Ann")
    assert served.names == ["old", "part", "bolt"]
    assert digests(ServedDetectors({}, store)) == {"bolt": other, "part": DIGEST}
    assert ServedDetectors({"new": path}, store).names == ["new", "bolt", "part"]


def test_without_files_and_deployments_nothing_serves(store: Store) -> None:
    assert ServedDetectors({}, store).names == ServedDetectors({}, None).names == []


def test_what_cannot_serve_leaves_the_present_detector(path: Path, other: str, store: Store, saved: Path) -> None:
    served = ServedDetectors({"part": path}, store)
    present, unexported = served["part"], Detector.load(saved)
    store.add_detector(unexported, saved)
    cases: list[tuple[str, str, str, type[OddlensError], str]] = [
        ("part", "0000", "Ann", DataNotFoundError, "is not in the store"),
        ("part", other, " ", SettingsError, "the name of the person"),
        ("../up", other, "Ann", SettingsError, "the name of a detector"),
        ("part", unexported.manifest.digest, "Ann", SettingsError, "oddlens export"),
    ]
    for name, digest, person, kind, reason in cases:
        with pytest.raises(kind, match=reason):
            served.deploy(name, digest, person=person)
    store.files.path(sha256(store.detector_content(other)[1])).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="is not what was written"):
        served.deploy("part", other, person="Ann")
    with pytest.raises(StateError, match="without --no-store"):
        ServedDetectors({"part": path}, None).deploy("part", other, person="Ann")
    assert served["part"] is present
    assert recorded(store) == [("part", DIGEST, COMMAND_LINE)]


def test_a_file_that_is_read_again_is_recorded_if_it_has_changed(path: Path, other: str, store: Store) -> None:
    served = ServedDetectors({"part": path}, store)
    served.reload("part", person="Ann")
    assert len(store.deployments()) == 1
    save_other(path)
    served.reload("part", person="Ann")
    assert recorded(store)[1:] == [("part", other, "Ann")]
    served.deploy("bolt", other, person="Ann")
    with pytest.raises(SettingsError, match="bolt: has no file on the command line"):
        served.reload("bolt", person="Ann")


class Deploying:
    """An extension by which a test deploys over HTTP."""

    def attach(self, app: FastAPI, service: Service) -> None:
        @app.post("/deploy/{digest}")
        async def deploy(digest: str) -> None:
            await service.deploy("part", digest, person="Ann")

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


def test_each_image_is_judged_by_one_detector_while_they_alternate(
    path: Path, exported: Path, store: Store, tmp_path: Path
) -> None:
    """Each answer has the digest, the threshold and the score of the same detector."""
    detectors = [Detector.load(file, device="cpu", threads=1) for file in (path, exported)]
    for detector, file in zip(detectors, (path, exported), strict=True):
        store.add_detector(detector, file)
    images, expected = [noise(i) for i in range(4)], dict[tuple[str, str], tuple[float, float | None]]()
    for detector in detectors:
        for i, content in enumerate(images):
            ((one, _, _),) = inspect("part", detector, [Upload(str(i), content)], Tags(), with_map=False)
            expected[one.detector_digest, one.name] = one.anomaly_score, one.threshold
    assert len({score for score, _ in expected.values()}) == 8
    answers, stop = list[dict[str, Any]](), Event()

    with serving(settings(path, store=str(tmp_path / "parts.db")), Deploying()) as (client, _):

        def post(i: int) -> dict[str, Any]:
            response = client.post("/v1/inspect", files={"file": (str(i), images[i])})
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()["inspections"][0]
            answers.append(answer)
            return answer

        def post_until_stopped() -> None:
            for i in cycle(range(4)):
                post(i)
                if stop.is_set():
                    return

        with ThreadPoolExecutor(3) as pool:
            posting = [pool.submit(post_until_stopped) for _ in range(3)]
            for i in range(16):
                digest = detectors[1 - i % 2].manifest.digest
                assert client.post(f"/deploy/{digest}").status_code == 200
                assert post(i % 4)["detector_digest"] == digest
            stop.set()
            for future in posting:
                future.result()
    for answer in answers:
        assert (answer["anomaly_score"], answer["threshold"]) == expected[answer["detector_digest"], answer["name"]]
    assert store.counts()["n"] == len(answers) > 50
    assert len(store.deployments(limit=1000)) == 17

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running_service import RunningService, noise, png, running
from stored_inspections import DETECTOR_FILE, DIGEST

from oddlens.detector.detector import Detector
from oddlens.store.audit import audit
from oddlens.store.open import open_store


def test_several_images_of_a_request_are_answered_in_order_with_their_tags(service: RunningService) -> None:
    files = [("file", (f"{seed}.png", noise(seed))) for seed in range(3)]
    response = service.client.post("/v1/inspect", files=files, data={"part": "p", "lot": "l", "station": "s"})
    answers = response.json()["inspections"]
    assert [answer["name"] for answer in answers] == ["0.png", "1.png", "2.png"]
    assert {(answer["part"], answer["lot"], answer["station"]) for answer in answers} == {("p", "l", "s")}
    assert {answer["detector_digest"] for answer in answers} == {DIGEST}
    assert answers[0].keys() >= {"id", "anomaly_score", "p_value", "threshold", "verdict"}
    assert answers[0]["map_png"] is None


def test_one_bad_image_refuses_the_request_and_nothing_of_it_is_stored(service: RunningService) -> None:
    files = [("file", ("a.png", noise(7))), ("file", ("bad.png", noise()[:60]))]
    before = service.post("mark.png", noise()).json()["inspections"][0]["id"]
    response = service.client.post("/v1/inspect", files=files)
    assert response.status_code == 422
    assert "bad.png" in response.json()["error"]
    assert service.post("mark.png", noise()).json()["inspections"][0]["id"] == before + 1


def test_an_image_as_the_body_gives_the_same_verdict(service: RunningService) -> None:
    query = {"name": "a.png", "lot": "A"}
    raw = service.client.post("/v1/inspect", content=noise(), headers={"Content-Type": "image/png"}, params=query)
    form = service.post("a.png", noise(), lot="A")
    (one,), (other,) = raw.json()["inspections"], form.json()["inspections"]
    assert {k: v for k, v in one.items() if k not in ("id", "time")} == {
        k: v for k, v in other.items() if k not in ("id", "time")
    }


def test_a_field_in_the_address_and_the_form_is_refused(service: RunningService) -> None:
    response = service.client.post("/v1/inspect?lot=A", files={"file": noise()}, data={"lot": "B"})
    assert (response.status_code, "send it once" in response.text) == (422, True)


def test_the_map_is_in_the_answer_and_in_the_store(service: RunningService) -> None:
    answer = service.post("a.png", png(np.zeros((20, 30), np.uint8)), map="true").json()["inspections"][0]
    content = base64.b64decode(answer["map_png"])
    assert Image.open(io.BytesIO(content)).size == (30, 20)
    assert service.client.get(answer["map_url"]).content == content


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_stored_image_is_shown_without_what_else_is_in_its_file(mode: str, service: RunningService) -> None:
    file = io.BytesIO()
    image = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).convert(mode) if mode != "RGB" else (
        Image.new("RGB", (8, 8), (255, 0, 0)))  # fmt: skip
    image.save(file, "TIFF" if mode == "I;16" else "JPEG", **({} if mode == "I;16" else {"comment": b"<script>"}))
    response = service.post("a.tiff", file.getvalue())
    if mode == "I;16":
        assert (response.status_code, "16 bits" in response.json()["error"]) == (422, True)
        return
    shown = service.client.get(f"/v1/inspections/{response.json()['inspections'][0]['id']}/image.png")
    assert b"<script>" in file.getvalue()
    assert b"<script>" not in shown.content
    assert Image.open(io.BytesIO(shown.content)).format == "PNG"


@pytest.mark.parametrize("number", ["0", "-1", "999999999", "99999999999999999999999999"])
def test_an_inspection_that_is_not_there_is_404(number: str, service: RunningService) -> None:
    for path in ("", "/map.png", "/image.png"):
        assert service.client.get(f"/v1/inspections/{number}{path}").status_code == 404


def test_an_audit_repeats_the_bits_of_an_answer(service: RunningService) -> None:
    answer = service.post("a.png", noise(3)).json()["inspections"][0]
    with open_store(service.store) as store:
        repeated = audit(store, answer["id"]).repeated
    assert repeated is not None
    assert (repeated.same_bits, repeated.anomaly_score) == (True, answer["anomaly_score"])


def test_a_detector_is_replaced_while_others_post(tmp_path: Path, images: list[tuple[str, bytes]]) -> None:
    path = Path(shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx"))
    with running(path, f"other={DETECTOR_FILE}") as service:
        url = "/v1/detectors/part/reload"
        path.write_bytes(b"no detector")
        refused = service.client.post(url)
        assert (refused.status_code, "not replaced" in refused.json()["error"]) == (409, True)
        detector = Detector.load(DETECTOR_FILE)
        detector.set_decision(detector.manifest.decision.model_copy(update={"false_alarm_rate": 0.2})).save(path)
        digests = list[str]()
        for i, (name, content) in enumerate(images[:20]):
            if i == 10:
                assert service.client.post(url).json()["digest"] == Detector.load(path).manifest.digest
            digests.append(service.post(name, content, detector="part").json()["inspections"][0]["detector_digest"])
        assert digests == [DIGEST] * 10 + [Detector.load(path).manifest.digest] * 10
        assert service.client.post("/v1/detectors/none/reload").status_code == 404
        assert [one["name"] for one in service.client.get("/v1/detectors").json()] == ["part", "other"]
        assert service.post("a.png", noise()).status_code == 422


def test_a_service_without_a_store_answers_and_records_nothing(tmp_path: Path) -> None:
    path = Path(shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx"))
    with running(path, "--no-store") as service:
        answer = service.post("a.png", noise(), map="1").json()["inspections"][0]
        assert (answer["id"], answer["map_url"], bool(answer["map_png"])) == (None, None, True)
        assert service.client.get("/v1/inspections/1").status_code == 404
    assert list(tmp_path.iterdir()) == [path]

from __future__ import annotations

import json

import numpy as np
import pytest
from running_service import RunningService
from stored_inspections import DETECTOR_FILE

from oddlens.detector.detector import Detector
from oddlens.service.tensors import HEADER_LENGTH


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (3, 48, 48, 1), dtype=np.uint8)


def test_health_and_metadata_are_those_of_the_protocol(service: RunningService) -> None:
    get = service.client.get
    assert get("/v2/health/live").status_code == get("/v2/health/ready").status_code == 200
    assert get("/v2/models/tiles/ready").status_code == 200
    assert "binary_tensor_data" in get("/v2").json()["extensions"]
    model = get("/v2/models/tiles").json()
    assert model["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 48, 48, 1]}]
    assert [output["name"] for output in model["outputs"]] == ["anomaly_score", "anomaly_map"]
    assert get("/v2/models/other").status_code == 404


def test_scores_and_maps_are_those_of_the_detector_as_json_and_as_bytes(
    service: RunningService, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    (expected,) = Detector.load(DETECTOR_FILE).iter_predictions(pixels)
    assert expected.anomaly_map is not None
    tensor = {"name": "pixels", "shape": [3, 48, 48, 1], "datatype": "UINT8"}
    url = "/v2/models/tiles/infer"
    plain = service.client.post(url, json={"inputs": [tensor | {"data": pixels.reshape(-1).tolist()}]})
    score, anomaly_map = plain.json()["outputs"]
    np.testing.assert_allclose(score["data"], expected.anomaly_score, rtol=1e-5)
    np.testing.assert_allclose(np.reshape(anomaly_map["data"], (3, 48, 48)), expected.anomaly_map, rtol=1e-4, atol=1e-5)

    request = {
        "inputs": [tensor | {"parameters": {"binary_data_size": pixels.size}}],
        "outputs": [{"name": "anomaly_score", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(request).encode()
    headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    binary = service.client.post(url, content=head + pixels.tobytes(), headers=headers)
    length = int(binary.headers[HEADER_LENGTH])
    assert json.loads(binary.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert np.frombuffer(binary.content[length:], "<f8").tolist() == score["data"]


def test_what_does_not_follow_the_protocol_is_400_with_a_reason(service: RunningService) -> None:
    response = service.client.post("/v2/models/tiles/infer", json={"inputs": []})
    assert (response.status_code, response.json()) == (400, {"error": "give one input, 'pixels'"})

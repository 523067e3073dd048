from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from oddlens.config.base import InputSpec
from oddlens.inference.backend import Predictions
from oddlens.service.refusals import RefusalError
from oddlens.service.tensors import parse_request, write_response

SPEC = InputSpec(height=4, width=4, channels=1, value_max=255)
LEVELS = [0, 1, 2, 255] * 4
TENSOR = {"name": "pixels", "shape": [1, 4, 4, 1], "datatype": "UINT8", "data": LEVELS}
BYTES = {"name": "pixels", "shape": [1, 4, 4, 1], "datatype": "UINT8", "parameters": {"binary_data_size": 16}}


def body(**changes: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR]} | changes).encode()


def test_pixels_are_the_same_as_json_nested_or_flat_and_as_bytes() -> None:
    expected = np.array(LEVELS, dtype=np.uint8).reshape(1, 4, 4, 1)
    nested = body(inputs=[TENSOR | {"data": expected.tolist()}])
    head = body(inputs=[BYTES])
    for content, length in ((body(), None), (nested, None), (nested, str(len(nested))),
                            (head + bytes(LEVELS), str(len(head)))):  # fmt: skip
        request = parse_request(content, length, SPEC)
        assert request.pixels.dtype == np.uint8
        assert request.pixels.tolist() == expected.tolist()
        assert (request.id, request.outputs, request.binary) == (None, ("anomaly_score", "anomaly_map"), frozenset())


def test_levels_of_16_bits_are_little_endian() -> None:
    spec = SPEC.model_copy(update={"value_max": 65535})
    head = body(inputs=[BYTES | {"datatype": "UINT16", "parameters": {"binary_data_size": 32}}])
    request = parse_request(head + b"\1\0\0\1\0\0\xff\xff" * 4, str(len(head)), spec)
    assert request.pixels.reshape(-1).tolist() == [1, 256, 0, 65535] * 4


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b"{}", b"{", b"[" * 100_000, b'{"inputs": 5}', b'{"inputs": [5]}', b"\xff\xfe",
        body(inputs=[TENSOR, TENSOR]), body(inputs=[TENSOR | {"name": "image"}]),
        body(inputs=[TENSOR | {"datatype": "FP32"}]), body(inputs=[TENSOR | {"shape": [1, 4, 4]}]),
        body(inputs=[TENSOR | {"shape": [0, 4, 4, 1], "data": []}]), body(inputs=[TENSOR | {"shape": [-1, 4, 4, 1]}]),
        body(inputs=[TENSOR | {"shape": [True, 4, 4, 1]}]), body(inputs=[TENSOR | {"shape": [10**30, 4, 4, 1]}]),
        body(inputs=[TENSOR | {"shape": "2"}]), body(inputs=[TENSOR | {"data": [0, 1, 2]}]),
        body(inputs=[TENSOR | {"data": [*LEVELS[1:], 256]}]), body(inputs=[TENSOR | {"data": [*LEVELS[1:], -1]}]),
        body(inputs=[TENSOR | {"data": [*LEVELS[1:], 0.5]}]), body(inputs=[TENSOR | {"data": [*LEVELS[1:], 10**30]}]),
        body(inputs=[TENSOR | {"data": [[0, 1], [2]]}]), body(inputs=[TENSOR | {"data": "0123"}]),
        body(inputs=[TENSOR | {"data": None}]), body(inputs=[TENSOR | {"data": [True] * 16}]),
        body(inputs=[BYTES]), body(inputs=[BYTES | {"parameters": 5}]), body() + b"tail", body(id=5),
        body(outputs=[{"name": "label"}]), body(outputs=[{}]), body(outputs=[{"name": ["anomaly_score"]}]),
        body(outputs=[{"name": "anomaly_score"}] * 2), body(parameters=[]),
    ],
)  # fmt: skip
def test_what_does_not_follow_the_protocol_is_400(content: bytes) -> None:
    with pytest.raises(RefusalError) as error:
        parse_request(content, None, SPEC)
    assert error.value.status == 400


@pytest.mark.parametrize("length", ["5", "-1", "x", "99999", str(10**30)])
def test_a_wrong_length_of_the_json_is_400(length: str) -> None:
    with pytest.raises(RefusalError):
        parse_request(body(), length, SPEC)


def test_outputs_are_those_asked_for_as_json_or_as_bytes() -> None:
    predictions = Predictions(np.array([1.5]), np.array([[[1, 2], [3, 4]]], dtype=np.float32), None)
    outputs = [{"name": "anomaly_map", "parameters": {"binary_data": True}}, {"name": "anomaly_score"}]
    request = parse_request(body(id="7", outputs=outputs), None, SPEC)
    content, length = write_response("part", request, predictions)
    assert length is not None
    answer = json.loads(content[:length])
    assert (answer["id"], answer["model_name"]) == ("7", "part")
    anomaly_map, score = answer["outputs"]
    assert anomaly_map == {
        "name": "anomaly_map", "datatype": "FP32", "shape": [1, 2, 2], "parameters": {"binary_data_size": 16}
    }  # fmt: skip
    assert np.frombuffer(content[length:], "<f4").tolist() == [1, 2, 3, 4]
    assert score == {"name": "anomaly_score", "datatype": "FP64", "shape": [1], "data": [1.5]}


def test_all_outputs_can_be_asked_for_as_bytes_at_once_and_a_missing_map_is_left_out() -> None:
    request = parse_request(body(parameters={"binary_data_output": True}), None, SPEC)
    content, length = write_response("part", request, Predictions(np.array([1.5]), None, None))
    assert length is not None
    assert [output["name"] for output in json.loads(content[:length])["outputs"]] == ["anomaly_score"]
    assert np.frombuffer(content[length:], "<f8").tolist() == [1.5]

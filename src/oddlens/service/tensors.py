"""Tensors of the Open Inference Protocol, version 2: as JSON, and as bytes after it (its binary tensor extension)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.inference.backend import INPUT, Predictions
from oddlens.service.refusals import RefusalError

HEADER_LENGTH = "Inference-Header-Content-Length"  # of the JSON, where bytes follow it
OUTPUTS = ("anomaly_score", "anomaly_map")
DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "float64": "FP64"}

Object = dict[str, Any]


@dataclass(frozen=True)
class InferRequest:
    """Pixels (N, H, W, C) to score, and which outputs to answer; those in `binary` as bytes."""

    id: str | None
    pixels: Pixels
    outputs: tuple[str, ...]
    binary: frozenset[str]


def parse_request(body: bytes, header_length: str | None, spec: InputSpec) -> InferRequest:
    """Parse the body of a request to infer.

    Raises:
        RefusalError: 400, and what is wrong with it.
    """
    length = len(body) if header_length is None else int(header_length) if header_length.isdecimal() else -1
    if not 0 <= length <= len(body):
        raise invalid(f"{HEADER_LENGTH}: is not the length of the JSON")
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not JSON") from error
    inputs = entries(request, "inputs")
    if len(inputs) != 1 or inputs[0].get("name") != INPUT:
        raise invalid(f"give one input, {INPUT!r}")
    names: list[Any] = (
        [entry.get("name") for entry in entries(request, "outputs")] if "outputs" in request else list(OUTPUTS)
    )
    if not all(name in OUTPUTS for name in names) or len(set(names)) < len(names):
        raise invalid(f"the outputs are {', '.join(OUTPUTS)}, each once")
    all_binary = parameters(request).get("binary_data_output", False)
    binary = {
        entry["name"] for entry in entries(request, "outputs") if parameters(entry).get("binary_data", all_binary)
    } if "outputs" in request else set(OUTPUTS) if all_binary else set()  # fmt: skip
    identity = request.get("id")
    if not isinstance(identity, str | None):
        raise invalid("id: must be text")
    return InferRequest(identity, read_pixels(inputs[0], body[length:], spec), tuple(names), frozenset(binary))


def entries(request: Any, name: str) -> list[Object]:
    """The objects in one list of a request."""
    value = request.get(name, []) if isinstance(request, dict) else None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise invalid(f"{name}: must be a list of objects")
    return value


def parameters(entry: Object) -> Object:
    """The parameters of a request or of a tensor."""
    value = entry.get("parameters", {})
    if not isinstance(value, dict):
        raise invalid("parameters: must be an object")
    return value


def read_pixels(tensor: Object, content: bytes, spec: InputSpec) -> Pixels:
    """The pixels (N, H, W, C) of an input, which must have the form of the spec."""
    expected = (spec.height, spec.width, spec.channels)
    shape, datatype = tensor.get("shape"), DATATYPES[spec.dtype]
    if tensor.get("datatype") != datatype:
        raise invalid(f"{INPUT}: must be {datatype}")
    if not isinstance(shape, list) or not all(type(side) is int for side in shape) or tuple(shape[1:]) != expected:
        raise invalid(f"{INPUT}: must have the shape [N, {', '.join(map(str, expected))}]")
    count, size = shape[0] * math.prod(expected), parameters(tensor).get("binary_data_size")
    if shape[0] < 1:
        raise invalid(f"{INPUT}: has no images")
    if size is not None:
        if size != len(content) or size != count * np.dtype(spec.dtype).itemsize or "data" in tensor:
            raise invalid(f"{INPUT}: binary_data_size, the shape and the bytes that follow the JSON do not agree")
        flat = np.frombuffer(content, np.dtype(spec.dtype).newbyteorder("<"))
    elif content:
        raise invalid(f"{INPUT}: bytes follow the JSON, but binary_data_size is not given")
    else:
        flat = read_levels(tensor.get("data"), count, np.iinfo(spec.dtype).max)
    pixels: Pixels = flat.astype(spec.dtype).reshape(shape)
    return pixels


def read_levels(data: Any, count: int, maximum: int) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """Levels from a list, nested or flat."""
    try:
        levels = np.asarray(data).reshape(-1)
    except (ValueError, OverflowError, RecursionError) as error:
        raise invalid(f"{INPUT}: data must be a list of integers, nested as the shape or flat") from error
    if levels.dtype.kind not in "iu" or levels.size != count or levels.min() < 0 or levels.max() > maximum:
        raise invalid(f"{INPUT}: data must be {count} integers from 0 to {maximum}")
    return levels


def output_metadata(spec: InputSpec, has_map: bool) -> list[Object]:
    """Names, types and shapes of the outputs."""
    score = {"name": "anomaly_score", "datatype": "FP64", "shape": [-1]}
    anomaly_map = {"name": "anomaly_map", "datatype": "FP32", "shape": [-1, spec.height, spec.width]}
    return [score, anomaly_map] if has_map else [score]


def write_response(name: str, request: InferRequest, predictions: Predictions) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON where bytes follow."""
    values = {"anomaly_score": predictions.anomaly_score, "anomaly_map": predictions.anomaly_map}
    outputs, tail = list[Object](), list[bytes]()
    for output in request.outputs:
        array = values[output]
        if array is None:
            continue
        entry: Object = {"name": output, "datatype": DATATYPES[str(array.dtype)], "shape": list(array.shape)}
        if output in request.binary:
            tail.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        outputs.append(entry)
    answer = {"model_name": name, "model_version": "1", "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    head = json.dumps(answer).encode()
    return b"".join([head, *tail]), len(head) if tail else None


def invalid(reason: str) -> RefusalError:
    """The answer to a request that does not follow the protocol."""
    return RefusalError(400, reason)

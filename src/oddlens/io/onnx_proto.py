"""Read and write the metadata of an ONNX file, and refuse content that no exported detector has.

The `onnx` package is not needed: protobuf, a dependency of ONNX Runtime, gets a schema with the few relevant fields and
preserves all others unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from oddlens.errors import ArtifactError

CHANGED = "no exported detector does, so it was changed after `oddlens export`; export it again"
ONNX_DOMAINS = ("", "ai.onnx")  # the two names of the domain of ONNX's own operators
# The part of onnx.proto that is read: message -> field -> (field number, type of its values).
MESSAGE_FIELDS: dict[str, dict[str, tuple[int, str | type]]] = {
    "File": {"metadata": (14, "Entry")},
    "Model": {"graph": (7, "Graph"), "opset": (8, "Opset"), "training": (20, "Training"), "function": (25, "Function")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse": (15, "Sparse")},
    "Function": {"node": (7, "Node"), "opset": (9, "Opset"), "domain": (10, str), "attribute": (11, "Attribute")},
    "Node": {"attribute": (5, "Attribute"), "domain": (7, str)},
    "Attribute": {
        "tensor": (5, "Tensor"), "graph": (6, "Graph"), "tensors": (10, "Tensor"), "graphs": (11, "Graph"),
        "sparse": (22, "Sparse"), "sparses": (23, "Sparse"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external": (13, "Entry"), "location": (14, int)},
    "Opset": {"domain": (1, str)},
    "Entry": {"key": (1, str), "value": (2, str)},
}  # fmt: skip


def split_metadata(content: bytes, source: Path) -> tuple[bytes, dict[str, str]]:
    """Split an ONNX file into the graph without metadata, and the metadata; `source` names the file in errors.

    Raises:
        ArtifactError: it is not an ONNX file or is truncated, stores tensors in other files, or uses custom operators.
    """
    try:
        file, model = message_class("File").FromString(content), message_class("Model").FromString(content)
    except DecodeError as error:
        raise ArtifactError(f"{source}: is not an ONNX file or is truncated; export the detector again") from error
    check_self_contained(model, str(source), CHANGED)
    metadata = {key: value for entry in file.metadata for key, value in zip(entry.key, entry.value, strict=False)}
    file.ClearField("metadata")
    return file.SerializeToString(), metadata


def join_metadata(graph: bytes, metadata: dict[str, str]) -> bytes:
    """Join a graph without metadata and the metadata to an ONNX file: protobuf merges concatenated messages."""
    entries = [{"key": [key], "value": [value]} for key, value in metadata.items()]
    serialized: bytes = message_class("File")(metadata=entries).SerializeToString()
    return graph + serialized


def check_graph(graph: bytes, source: str, remedy: str) -> None:
    """Check the graph of a network that oddlens did not make; `remedy` ends errors and says what to do.

    Raises:
        ArtifactError: it is no graph, stores tensors in other files, or uses or imports custom operators.
    """
    try:
        model = message_class("Model").FromString(graph)
    except DecodeError as error:
        raise ArtifactError(f"{source}: is not an ONNX file or is truncated; {remedy}") from error
    check_self_contained(model, source, remedy)


def check_self_contained(model: Any, source: str, remedy: str) -> None:
    """Check all parts of a model, including subgraphs and functions, before any of it is used.

    Raises:
        ArtifactError: a tensor is stored in another file, or an operator is not one of ONNX's own.
    """
    for part in walk_messages(model):
        if part.DESCRIPTOR.name == "Tensor" and (part.external or any(part.location)):
            raise ArtifactError(f"{source}: stores tensors in other files; {remedy}")
        custom_domains = set(getattr(part, "domain", ())) - set(ONNX_DOMAINS)
        if custom_domains:
            raise ArtifactError(
                f"{source}: uses or imports operators of the domain '{min(custom_domains)[:80]}', not ONNX's own; "
                f"{remedy}"
            )


def walk_messages(message: Any) -> Iterator[Any]:
    """Yield a message and all messages nested in it, at any depth."""
    yield message
    for field, values in message.ListFields():
        if field.message_type is not None:
            for value in values:
                yield from walk_messages(value)


def message_class(name: str) -> Any:
    """Protobuf class of a message in `MESSAGE_FIELDS`; all fields are repeated, so that duplicates are read too."""
    scalar_types = {
        str: descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        int: descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    }
    repeated = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    nested = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    file = descriptor_pb2.FileDescriptorProto(name="oddlens.proto", package="oddlens", syntax="proto3")
    for message, fields in MESSAGE_FIELDS.items():
        descriptor = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            if isinstance(kind, str):
                type_name = f".oddlens.{kind}"
                descriptor.field.add(name=field, number=number, label=repeated, type=nested, type_name=type_name)
            else:
                descriptor.field.add(name=field, number=number, label=repeated, type=scalar_types[kind])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"oddlens.{name}"))

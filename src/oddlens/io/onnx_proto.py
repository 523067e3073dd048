"""An ONNX file as protobuf: the metadata that it carries, and what no detector's file may hold.

The `onnx` package is not needed: protobuf, which ONNX Runtime brings, is told of the few fields that matter and hands
on all others as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from oddlens.errors import ArtifactError

DOMAINS = ("", "ai.onnx")  # two names of ONNX's own operators
# What is read of onnx.proto: message -> field -> its number, and the type of what is in it.
FIELDS: dict[str, dict[str, tuple[int, str | type]]] = {
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
    """An ONNX file's graph, and its metadata; `source` names the file in errors.

    Raises:
        ArtifactError: it is no ONNX file or is cut short, keeps tensors in other files, or uses foreign operators.
    """
    try:
        file, model = message_class("File").FromString(content), message_class("Model").FromString(content)
    except DecodeError as error:
        raise ArtifactError(f"{source}: is not an ONNX file or is cut short; export the detector again") from error
    refuse_foreign(model, source)
    metadata = {key: value for entry in file.metadata for key, value in zip(entry.key, entry.value, strict=False)}
    file.ClearField("metadata")
    return file.SerializeToString(), metadata


def join_metadata(graph: bytes, metadata: dict[str, str]) -> bytes:
    """A graph without metadata and the metadata, as one ONNX file: protobuf joins what stands one after the other."""
    entries = [{"key": [key], "value": [value]} for key, value in metadata.items()]
    carried: bytes = message_class("File")(metadata=entries).SerializeToString()
    return graph + carried


def refuse_foreign(model: Any, source: Path) -> None:
    """Look at every part of a model, subgraphs and functions too, before any of it is used.

    Raises:
        ArtifactError: a tensor lies in another file, or an operator is not one of ONNX's own.
    """
    for part in walk_messages(model):
        if part.DESCRIPTOR.name == "Tensor" and (part.external or any(part.location)):
            raise ArtifactError(
                f"{source}: keeps tensors in other files, as no detector does; it was changed since `oddlens export`"
            )
        foreign = set(getattr(part, "domain", ())) - set(DOMAINS)
        if foreign:
            raise ArtifactError(
                f"{source}: uses operators of the domain '{min(foreign)[:80]}', and detectors use ONNX's own alone; it "
                "was changed since `oddlens export`"
            )


def walk_messages(message: Any) -> Iterator[Any]:
    """A message and all messages in it, however deep."""
    yield message
    for field, values in message.ListFields():
        if field.message_type is not None:
            for value in values:
                yield from walk_messages(value)


def message_class(name: str) -> Any:
    """The class of a message of `FIELDS`. All fields are repeated, so that one that is written twice is seen twice."""
    kinds = {str: descriptor_pb2.FieldDescriptorProto.TYPE_STRING, int: descriptor_pb2.FieldDescriptorProto.TYPE_INT32}
    many, nested = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    file = descriptor_pb2.FileDescriptorProto(name="oddlens.proto", package="oddlens", syntax="proto3")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            if isinstance(kind, str):
                described.field.add(name=field, number=number, label=many, type=nested, type_name=f".oddlens.{kind}")
            else:
                described.field.add(name=field, number=number, label=many, type=kinds[kind])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"oddlens.{name}"))

"""Graphs in ONNX format: export of PyTorch modules, and the version of the operators of other graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.io.onnx_proto import ONNX_DOMAINS
from oddlens.io.text import first_line

if TYPE_CHECKING:
    import onnx
    import onnx_ir

MIN_OPSET = 18  # that PyTorch exports to; from 19 on, ONNX Runtime averages pools four times as slowly


def check_exporter() -> None:
    """Check that PyTorch's exporter can work.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ModuleNotFoundError as error:
        raise MissingExtraError("exporting to ONNX", "train") from error


def export_module(
    module: nn.Module,
    example: Tensor,
    input_name: str,
    output_names: Sequence[str],
    dynamic_shapes: dict[int, Any],
    opset: int = MIN_OPSET,
) -> onnx.ModelProto:
    """The graph of a module with one input; without metadata, which names files of this machine.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    check_exporter()
    with silence_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            external_data=False,
            dynamic_shapes=(dynamic_shapes,),
            input_names=[input_name],
            output_names=list(output_names),
            opset_version=opset,
            verbose=False,
            optimize=False,
        )
        if program is None:
            raise ArtifactError("PyTorch's exporter returned no graph; please report this with the PyTorch version")
        simplify(program.model)
    model: onnx.ModelProto = program.model_proto
    clear_metadata(model.graph)
    return model


def simplify(model: onnx_ir.Model) -> None:
    """Fold constants, and remove what is unused or there twice.

    These are the steps of the exporter's own optimizer without its patterns of operators, which it tries at every node:
    runtimes fuse operators themselves, and an export takes a tenth to a fifth less time.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants(model, onnx_shape_inference=False)
    for step in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        step(model)


def opset_version(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators that a model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS), default=1)


def read_network(content: bytes, name: str) -> onnx.ModelProto:
    """The user's own backbone, in a version of ONNX's operators to which the model around it can be exported.

    Raises:
        MissingExtraError: the packages for it are not installed.
        ArtifactError: its version is too old and cannot be converted.
    """
    check_exporter()
    import onnx
    from onnx import version_converter

    network: onnx.ModelProto = onnx.load_from_string(content)
    version = opset_version(network)
    if version >= MIN_OPSET:
        return network
    try:
        converted: onnx.ModelProto = version_converter.convert_version(network, MIN_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others
        raise ArtifactError(
            f"{name}: uses version {version} of ONNX's operators and cannot be converted to {MIN_OPSET} "
            f"({first_line(error)}); export the network again with opset_version={MIN_OPSET}"
        ) from error
    return converted


def clear_metadata(graph: onnx.GraphProto) -> None:
    """Clear what names the files that operators come from."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress the output of the exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

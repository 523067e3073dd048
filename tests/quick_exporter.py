"""PyTorch's exporter lists its operators once for each process of tests, and not for every export.

That takes a quarter of the time of a small export. Where PyTorch's exporter is organized otherwise, nothing changes.
"""

from __future__ import annotations

import contextlib
import functools

from oddlens.models.backbones.onnx_exporter import MIN_OPSET

with contextlib.suppress(ImportError):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    list_operators = functools.cache(ONNXRegistry.from_torchlib)

    def copy_of_listed(opset_version: int = MIN_OPSET) -> ONNXRegistry:
        """The operators for a version of ONNX's, in a registry of one's own."""
        listed, own = list_operators(opset_version), ONNXRegistry()
        own._opset_version = opset_version
        own.functions = {target: [*functions] for target, functions in listed.functions.items()}
        return own

    ONNXRegistry.from_torchlib = staticmethod(copy_of_listed)  # type: ignore[method-assign]

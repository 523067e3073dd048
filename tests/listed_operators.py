"""Lists the operators of PyTorch's exporter when it is imported: for a process from which others are forked."""

from __future__ import annotations

import quick_exporter

from oddlens.models.backbones.onnx_exporter import MIN_OPSET

if hasattr(quick_exporter, "list_operators"):
    quick_exporter.list_operators(MIN_OPSET)

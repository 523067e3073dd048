"""Sessions of ONNX Runtime on the CPU."""

from __future__ import annotations

from oddlens.io.environment import default_variable

# The telemetry sends data to its makers, and its thread lets forked processes hang when they exit.
with default_variable("ORT_DISABLE_TELEMETRY", "1"):
    import onnxruntime as ort

VERSION = str(ort.__version__)


def create_session(graph: bytes, threads: int) -> ort.InferenceSession:
    """A session of a graph in ONNX format with a number of threads; 0 leaves it to ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # or it reads its own format unchecked
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

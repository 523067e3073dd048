"""Sessions of ONNX Runtime: as many threads as requested, and nothing sent to its makers."""

from __future__ import annotations

import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from oddlens.io.onnx_session import create_session


def identity() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_session_has_the_number_of_threads(threads: int) -> None:
    session = create_session(identity().SerializeToString(), threads)
    assert session.get_session_options().intra_op_num_threads == threads
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_the_telemetry_is_off_while_the_runtime_is_imported_and_the_variable_is_gone_afterwards() -> None:
    program = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import oddlens.io.onnx_session\n"
        "print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "None"]

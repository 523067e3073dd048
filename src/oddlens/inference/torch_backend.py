"""Scoring with PyTorch, in float32 or bfloat16."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FamilySettings
from oddlens.data.image_io import Pixels
from oddlens.errors import SettingsError, StateError
from oddlens.inference.backend import MAX_STREAMS, Predictions
from oddlens.inference.torch_threads import fork_safe, get_threads, single_thread
from oddlens.io.per_process import PerProcess
from oddlens.models import registry
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.base import Model, ScoringGraph
from oddlens.models.layers import fast_bf16

GPU_LOCK = PerProcess(threading.Lock)


class TorchBackend:
    """Runs a model's scoring graph on a device ("cpu" or "cuda").

    In bf16, convolutions and matrix products multiply in bfloat16; errors, means and distances stay in float32. In a
    forked process, it runs in a single thread.
    """

    @fork_safe()
    def __init__(self, model: Model, device: torch.device, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        self.model = model.eval()
        self.graph = ScoringGraph(model).to(device)
        self.graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.device = device
        self.precision = precision

    @property
    def name(self) -> str:
        """Runtime and precision; bf16 is slow where the hardware has none."""
        emulated = ", emulated" if self.precision == "bf16" and not fast_bf16(self.device) else ""
        return f"torch {torch.__version__} {self.device.type} {self.precision}{emulated}"

    @property
    def spec(self) -> InputSpec:
        """The form of the pixels that it scores."""
        return self.model.spec

    @property
    def streams(self) -> int:
        """Number of batches scored concurrently: 1 on a GPU, or where one batch keeps all threads busy."""
        alone = self.device.type != "cpu" or self.model.uses_all_threads
        return 1 if alone else min(get_threads(), MAX_STREAMS)

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) in the calling thread."""
        with single_thread():
            return self(pixels)

    @fork_safe()
    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) with all threads.

        Raises:
            StateError: the GPU was used before this process was forked.
        """
        check_device(self.device)
        exact = exact_on_gpu() if self.device.type == "cuda" else nullcontext()
        fast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), exact, fast:
            writable = np.require(pixels, requirements=["C", "W"])  # PyTorch warns of read-only arrays
            scored = self.graph(torch.from_numpy(writable).to(self.device))
            score, anomaly_map, reconstruction = scored
            return Predictions(
                score.double().cpu().numpy(),
                None if anomaly_map is None else anomaly_map.float().cpu().numpy(),
                None
                if reconstruction is None
                else reconstruction.permute(0, 2, 3, 1).float().contiguous().cpu().numpy(),
            )


@contextmanager
def exact_on_gpu() -> Iterator[None]:
    """Deterministic float32 on a GPU; these settings belong to the process, so one thread at a time has them."""
    with GPU_LOCK.get(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def check_device(device: torch.device) -> None:
    """Refuse a GPU in a process that was forked after its first use.

    Raises:
        StateError: says what works.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise StateError(
            "a GPU cannot be used in a process that was forked after its first use; start processes with "
            "multiprocessing.get_context('spawn'), or load the detector with device='cpu'"
        )


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where available, else the CPU.

    Raises:
        SettingsError: CUDA is requested and not available.
        StateError: CUDA is requested, and this process was forked after its first use.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() and not torch.cuda._is_in_bad_fork() else "cpu"
    device = torch.device(name)
    check_device(device)
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "--device cuda: this PyTorch sees no CUDA device; use --device cpu, or install its GPU build"
        )
    return device


@fork_safe()
def rebuild(
    settings: FamilySettings,
    spec: InputSpec,
    weights: Mapping[str, npt.NDArray[np.float32]],
    roi: npt.NDArray[np.uint8] | None,
    device: str,
    precision: Literal["fp32", "bf16"],
    graph: OnnxGraph | None = None,
) -> TorchBackend:
    """A backend from saved weights by name, the region of interest (H, W), and the graph of the user's own backbone."""
    model = registry.build(settings, spec, seed=0)
    model.load_weights({name: torch.from_numpy(value) for name, value in weights.items()})
    if roi is not None:
        model.set_roi(roi.astype(bool))
    if graph is not None:
        model.set_graph(graph)
    return TorchBackend(model, resolve_device(device), precision)

"""Training over the processes that torchrun starts: the first one runs the command, the others follow it.

The first process reads the images, decides, prints and writes. For each training it sends model and images to the
others, and all of them train together; whatever else it does, they wait.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from oddlens import __version__
from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import FamilySettings
from oddlens.data.image_io import Pixels
from oddlens.data.pixel_store import allocate_pixels
from oddlens.errors import SettingsError, TrainingError
from oddlens.io.text import first_line
from oddlens.models import registry
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.base import GradientModel, Model
from oddlens.models.ranks import ALONE, Ranks
from oddlens.training import loop

# Of a wait for another process, such as for the first one while it reads images. It ends no training: torchrun notices
# a process or a machine that is gone, and a connection that breaks is an error at once.
MAX_WAIT = timedelta(days=1)
BLOCK_BYTES = 2**26  # of pixels that are sent at a time


@dataclass(frozen=True)
class TrainingJob:
    """What another process needs to take part in a training, but for the pixels."""

    settings: FamilySettings
    spec: InputSpec
    roi: npt.NDArray[np.bool_]  # (H, W)
    graph: OnnxGraph | None
    tiles_per_image: int
    training: TrainingSettings
    device: str
    threads: int
    shape: tuple[int, ...]  # of the pixels
    dtype: str


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the block lasts.

    In the first process, the block does the work; in the others, it calls `follow`. They are released where the first
    one ends without an error. After an error torchrun ends them.

    Raises:
        SettingsError: the processes run different versions, or there are more of them than GPUs on this machine.
        TrainingError: they cannot connect to each other.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        check_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=MAX_WAIT)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the processes cannot connect to each other ({first_line(error)}); start them with torchrun, and check "
            "its --rdzv-endpoint if they are on several machines"
        ) from error
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        check_versions(ranks)
        try:
            yield ranks
        except SystemExit as end:
            if end.code:
                raise
        if ranks.is_first:
            ranks.from_first(None)
        dist.barrier()  # nobody leaves while another still receives
    finally:
        gc.collect()  # models in reference cycles hold connections, whose threads must end before the process does
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def check_gpus(n_processes: int) -> None:
    """Refuse more processes on this machine than it has GPUs.

    Raises:
        SettingsError: says how many there may be.
    """
    count = torch.cuda.device_count()
    if n_processes > count:
        raise SettingsError(
            f"torchrun started {n_processes} processes on a machine with {count} GPU(s), and each needs its own; use "
            f"--nproc-per-node={count}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on the CPU"
        )


def check_versions(ranks: Ranks) -> None:
    """Refuse processes of different versions, whose results would differ, or some with GPUs and some without.

    Raises:
        SettingsError: names the versions.
    """
    own = {"oddlens": __version__, "torch": torch.__version__, "cuda": torch.cuda.is_available()}
    first = ranks.from_first(own)
    if own != first:
        raise SettingsError(f"process {ranks.rank} runs {own}, and the first one {first}; make them the same")


def follow(ranks: Ranks) -> None:
    """Take part in each training of the first process, until it has none left.

    Raises:
        TrainingError: training diverged, or another process ended in its middle.
        SystemExit: the first process ended before; it says why.
    """
    while (job := next_job(ranks)) is not None:
        torch.set_num_threads(job.threads)
        pixels = allocate_pixels(job.shape, np.dtype(job.dtype))
        with lost_processes(ranks):
            send_pixels(pixels, ranks)
        device = torch.device("cuda", local_rank()) if job.device == "cuda" else torch.device(job.device)
        model = registry.build(job.settings, job.spec, seed=0)
        model.set_roi(job.roi)
        if job.graph is not None:
            model.set_graph(job.graph)
        model.tiles_per_image = job.tiles_per_image
        train_together(model, pixels, job.training, device, ranks)


def next_job(ranks: Ranks) -> TrainingJob | None:
    """Wait for the next training of the first process; None where there is none left."""
    try:
        job: TrainingJob | None = ranks.from_first(None)
    except RuntimeError as error:
        if is_connection_error(error):
            raise SystemExit(1) from error
        raise
    return job


def announce(model: Model, pixels: Pixels, training: TrainingSettings, device: torch.device, ranks: Ranks) -> Ranks:
    """Let the other processes take part in a training; returns those that do, which may be this one alone."""
    if ranks.size == 1 or len(pixels) < ranks.size or not (isinstance(model, GradientModel) or model.fits_together):
        return ALONE
    precision = "bf16" if loop.use_bf16(training.precision, device) else "fp32"
    job = TrainingJob(
        settings=model.settings,
        spec=model.spec,
        roi=model.roi.cpu().numpy().astype(bool),
        graph=model.graph,
        tiles_per_image=model.tiles_per_image,
        training=training.model_copy(update={"precision": precision}),
        device=device.type,
        threads=torch.get_num_threads(),
        shape=pixels.shape,
        dtype=pixels.dtype.str,
    )
    with lost_processes(ranks):
        ranks.from_first(job)
        send_pixels(pixels, ranks)
    return ranks


def send_pixels(pixels: Pixels, ranks: Ranks) -> None:
    """Copy pixels (N, H, W, C) of the first process into those of the others, some at a time."""
    flat = torch.from_numpy(pixels.reshape(-1).view(np.uint8))
    ranks.copy_from_first(torch.split(flat, BLOCK_BYTES))


def train_together(
    model: Model, pixels: Pixels, training: TrainingSettings, device: torch.device, ranks: Ranks
) -> None:
    """Take part in a training as a process that follows."""
    with lost_processes(ranks):
        loop.train(model, pixels, training, device, ranks=ranks)


@contextlib.contextmanager
def lost_processes(ranks: Ranks) -> Iterator[None]:
    """Raise what PyTorch raises when the connection to another process breaks as an error of oddlens.

    Raises:
        TrainingError: another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or not is_connection_error(error):
            raise
        raise TrainingError(
            f"process {ranks.rank} of {ranks.size} lost the connection to another one, which ended; its own error says "
            "why; repeat the command with --resume to continue from the last checkpoint"
        ) from error


def is_connection_error(error: RuntimeError) -> bool:
    """Whether PyTorch raised an error of communication."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))

"""Fitting a model: one plain loop of gradient training, with a checkpoint after each epoch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from oddlens.config import TrainingSettings
from oddlens.errors import TrainingError
from oddlens.files import write_bytes
from oddlens.images import Pixels
from oddlens.memory import keeping_freed
from oddlens.models import Learner, Model
from oddlens.models.layers import fast_bf16
from oddlens.optim import Adam, Muon

CHECK_EVERY = 50  # steps between two looks at the loss
WARM_UP = 0.2  # share of a one-cycle training in which the learning rate rises
WORSE, EXPLODED = 1.25, 10.0  # times the untrained loss
SETTLED = 50  # steps from which on a loss that is worse is no mere beginning
SAMPLE = 256  # images at most on which the untrained loss is measured

Row = dict[str, float]


@dataclass(frozen=True)
class Step:
    """How far training is: what a progress display needs."""

    epoch: int  # 1-based
    epochs: int
    step: int  # 1-based, within the epoch
    steps: int
    loss: float  # mean so far in this epoch
    family: str = ""


Progress = Callable[[Step], None]


@keeping_freed()
def train(
    model: Model,
    pixels: Pixels,
    settings: TrainingSettings,
    device: torch.device,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    deadline: float = math.inf,
) -> list[Row]:
    """Fit `model` to normal pixels (N, H, W, C); gives one history row an epoch, none without gradients.

    With a `folder`, the history (`history.jsonl`) and the last two checkpoints are kept there, and
    `resume` goes on after the newest one. Each epoch draws from its own generator, so that a resumed
    run is bitwise the uninterrupted one. With a `deadline` (of `time.perf_counter`), fewer epochs than asked for
    are made where time runs short, and the schedule ends with the last of them; the rows' `progress` is the pace
    that repeats it.

    Raises:
        TrainingError: the loss is not a number or explodes; or a checkpoint belongs to another run.
    """
    model.to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    images = torch.from_numpy(pixels).to(device)
    if folder and not resume:
        forget(folder)
    with torch.no_grad():
        model.prepare(images, settings.seed)
    history: list[Row] = []
    if isinstance(model, Learner):
        history = descend(model, images, pixels, settings, folder, resume, progress, deadline)
    model.eval()
    with torch.no_grad():
        model.fit_closed_form(images, settings.seed)
    return history


def descend(
    model: Learner,
    images: Tensor,
    pixels: Pixels,
    settings: TrainingSettings,
    folder: Path | None,
    resume: bool,
    progress: Progress | None,
    deadline: float,
) -> list[Row]:
    """Train by gradients, epoch after epoch."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    made = Muon if settings.optimizer == "muon" else Adam
    optimizer = made(learning, settings.learning_rate, settings.weight_decay)
    untrained = untrained_loss(model, images[:: -(-len(images) // SAMPLE)], settings.seed)  # spread over all of them
    run = run_digest(model, pixels, settings)
    history: list[Row] = []
    if folder and resume:
        history = load_checkpoint(folder, model, optimizer, run, len(settings.pace) or settings.epochs)
        write_history(folder, history)
    while (share := next_share(history, settings, deadline)) is not None:
        started, epoch = time.perf_counter(), len(history) + 1
        span = (share_done(history, settings, deadline), share)
        loss = train_epoch(model, images, optimizer, settings, epoch, span, progress)
        seconds = round(time.perf_counter() - started, 3)
        history.append({"epoch": epoch, "loss": loss, "progress": share, "seconds": seconds})
        steps = epoch * -(-min(len(images), settings.epoch_images or len(images)) // settings.batch_size)
        settled = steps >= SETTLED or (share == 1 and deadline == math.inf)
        worst = (WORSE if settled else EXPLODED) * untrained
        if loss > worst:  # before the checkpoint: a resume goes on from a network that works
            raise broken_down(f"is worse than the {untrained:.3g} without any training", loss, epoch, settings)
        if folder:
            save_checkpoint(folder, model, optimizer, run, history)
            write_history(folder, history)
    return history


def share_done(history: Sequence[Row], settings: TrainingSettings, deadline: float) -> float:
    """The share of the whole training that is done; epochs asked for since then count."""
    if settings.pace or deadline < math.inf:
        return history[-1]["progress"] if history else 0.0
    return len(history) / settings.epochs


def next_share(history: Sequence[Row], settings: TrainingSettings, deadline: float) -> float | None:
    """The share of the whole training that is done after the next epoch; None where there is none."""
    done = len(history)
    if settings.pace:
        return settings.pace[done] if done < len(settings.pace) else None
    if done >= settings.epochs:
        return None
    if deadline == math.inf:
        return (done + 1) / settings.epochs
    if not history:
        return 1 / settings.epochs
    before, usual = history[-1]["progress"], history[-3:]
    affordable = (deadline - time.perf_counter()) / (sum(row["seconds"] for row in usual) / len(usual))
    left = min(settings.epochs - done, int(affordable))
    return None if before >= 1 else 1.0 if left <= 1 else before + (1 - before) / left


def rate_factor(schedule: str, progress: float) -> float:
    """What the learning rate is multiplied with when so much of the training is done."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - progress
    return progress / WARM_UP if progress < WARM_UP else (1 - progress) / (1 - WARM_UP)


def train_epoch(
    model: Learner,
    images: Tensor,
    optimizer: Adam,
    settings: TrainingSettings,
    epoch: int,
    span: tuple[float, float],
    progress: Progress | None,
) -> float:
    """Go once through the images (N, H, W, C) in a fresh random order; gives the mean loss.

    `span` is the share of the whole training that is done before and after this epoch.
    """
    bf16 = uses_bf16(settings.precision, images.device)
    total, seen = torch.zeros((), device=images.device), 0
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(settings.seed * 100_003 + epoch)
        order = torch.randperm(len(images), device=images.device)[: settings.epoch_images]
        batches = torch.split(order, settings.batch_size)
        for step, chosen in enumerate(batches, 1):
            done = span[0] + (span[1] - span[0]) * (step - 0.5) / len(batches)
            optimizer.factor = rate_factor(settings.schedule, done)
            batch = model.scale(images.index_select(0, chosen))
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(chosen)
            seen += len(chosen)
            if step == 1 or step % CHECK_EVERY == 0 or step == len(batches):
                mean = float(total) / seen
                if not math.isfinite(mean):
                    raise broken_down("is not a number", mean, epoch, settings)
                if progress:
                    expected = epoch + round((1 - span[1]) / (span[1] - span[0]))
                    family = model.settings.family
                    progress(Step(epoch, expected, step, len(batches), mean, family))
    return float(total) / seen


def untrained_loss(model: Learner, images: Tensor, seed: int) -> float:
    """The loss on some images before any training: what a run that works falls below."""
    model.eval()  # leaves the running means of normalisation alone
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []), torch.no_grad():
        torch.manual_seed(seed)
        losses = [float(model.loss(batch)) * len(batch) for batch in model.batches(images)]
    model.train()
    return sum(losses) / len(images)


def broken_down(what: str, loss: float, epoch: int, settings: TrainingSettings) -> TrainingError:
    """The error of a run that broke down."""
    return TrainingError(
        f"the training loss {what} in epoch {epoch} ({loss:.3g}); try a smaller learning rate "
        f"(now {settings.learning_rate:g}), precision 'fp32' (now '{settings.precision}') or a larger batch"
    )


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether training multiplies in bfloat16: when asked to, or where the hardware is made for it."""
    return fast_bf16(device) if precision == "auto" else precision == "bf16"


def run_digest(model: Model, pixels: Pixels, settings: TrainingSettings) -> str:
    """What makes a run this run: family settings, input, region, training settings, and the very pixels.

    With a constant learning rate the number of epochs is left out, so that a finished run can be continued for longer.
    """
    told = [repr(getattr(model, "settings", None)), model.spec.model_dump_json()]
    told.append(settings.model_dump_json(exclude={"epochs"} if settings.schedule == "constant" else None))
    digest = hashlib.blake2b("\n".join(told).encode(), digest_size=16)
    digest.update(model.roi.cpu().numpy().tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((folder / "checkpoints").glob("epoch-*.safetensors"))


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """The history as JSON lines, one an epoch."""
    write_bytes(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())


def forget(folder: Path) -> None:
    """Remove what an earlier run left in a folder: its checkpoints and its history."""
    for path in [*checkpoints(folder), folder / "history.jsonl"]:
        path.unlink(missing_ok=True)


def save_checkpoint(folder: Path, model: Model, optimizer: Adam, run: str, history: Sequence[Row]) -> None:
    """Write model and optimiser after an epoch, and drop all but the last two checkpoints."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in enumerate(optimizer.states):
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"run": run, "history": json.dumps(list(history)), "digest": content_digest(content)}
    write_bytes(folder / "checkpoints" / f"epoch-{len(history):06d}.safetensors", save(content, metadata))
    for old in checkpoints(folder)[:-2]:
        old.unlink(missing_ok=True)


def content_digest(tensors: dict[str, Tensor]) -> str:
    """What tells a whole checkpoint from a damaged one."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def load_checkpoint(folder: Path, model: Model, optimizer: Adam, run: str, epochs: int) -> list[Row]:
    """Restore the newest whole checkpoint; gives its history, empty where there is none.

    Raises:
        TrainingError: the checkpoint was made by other settings or other images, or by more epochs.
    """
    for path in reversed(checkpoints(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue  # cut short by a power loss: the one before it is whole
        if metadata.get("digest") != content_digest(tensors):
            continue
        if metadata["run"] != run:
            raise TrainingError(
                f"{path}: was made with other settings or other images; run without --resume, or choose another --out"
            )
        history: list[Row] = json.loads(metadata["history"])
        if len(history) > epochs:
            raise TrainingError(
                f"{path}: has {len(history)} epochs and {epochs} were asked for; ask for more, or run without --resume"
            )
        restore(model, optimizer, tensors)
        return history
    return []


def restore(model: Model, optimizer: Adam, tensors: dict[str, Tensor]) -> None:
    """Put a checkpoint's tensors back into model and optimiser; what is there keeps its memory layout."""
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for number, state in enumerate(optimizer.states):
        for name, tensor in state.items():
            tensor.copy_(tensors[f"optimizer.{number}.{name}"])

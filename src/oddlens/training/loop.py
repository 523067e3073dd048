"""The training loop: plain gradient training with a checkpoint after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from oddlens.config.base import TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.errors import TrainingError
from oddlens.models.base import GradientModel, Model
from oddlens.models.layers import fast_bf16
from oddlens.models.ranks import ALONE, Ranks, over_ranks
from oddlens.training.checkpoints import clear_checkpoints, load_checkpoint, run_digest, save_checkpoint
from oddlens.training.history import HistoryRow, Progress, TrainingStep, write_history
from oddlens.training.optim import OPTIMIZERS, Adam
from oddlens.training.schedule import Pacer, Span, lr_multiplier
from oddlens.training.time_limit import TimeLimit

CHECK_EVERY = 50  # steps between two checks of the loss
MAX_LOSS_RATIO = 1.25  # of the loss to that without training; above it, training has diverged
MAX_EARLY_LOSS_RATIO = 10.0  # the same in the first steps
MIN_SETTLED_STEPS = 50  # after which the first steps are over
MAX_SAMPLED_IMAGES = 256  # on which the loss without training is measured


def train(
    model: Model,
    pixels: Pixels,
    settings: TrainingSettings,
    device: torch.device,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    limit: TimeLimit | None = None,
    ranks: Ranks = ALONE,
) -> list[HistoryRow]:
    """Fit `model` to normal pixels (N, H, W, C). Returns one history row per epoch, none without gradient training.

    With a `folder`, the history (`history.jsonl`) and the last two checkpoints are written there, and `resume`
    continues from the newest one. Each epoch draws from its own generator, so that a resumed run is bitwise equal to
    an uninterrupted one. With a time limit, there are fewer epochs where time runs short, some of them cut short, and
    the schedule ends with the last of them; the rows' `progress` and `share` are the pace that repeats the run.

    Of several `ranks`, each computes its share of each batch; only the first one has folder, progress and limit, and
    the model that is complete afterwards.

    Raises:
        TrainingError: the loss is not finite or explodes, or a checkpoint belongs to another run.
    """
    model.to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    images = torch.from_numpy(pixels).to(device)
    if folder and not resume:
        clear_checkpoints(folder)
    if settings.epoch_images and not isinstance(model, GradientModel):
        images = images[drawn_images(len(images), settings, model.tiles_per_image).to(device)]
    if ranks.is_first:
        with torch.no_grad():
            model.prepare(images, settings.seed)
    history: list[HistoryRow] = []
    if isinstance(model, GradientModel):
        history = run_epochs(model, images, pixels, settings, folder, resume, progress, limit, ranks)
    model.eval()
    if ranks.is_first or model.fits_together:
        with over_ranks(model, ranks if model.fits_together else ALONE), torch.no_grad():
            model.fit_closed_form(images, settings.seed)
    return history


def drawn_images(count: int, settings: TrainingSettings, tiles_per_image: int = 1) -> Tensor:
    """Sorted indices (n,) of the `epoch_images` that a model is fitted to in closed form, drawn at random.

    All tiles of an image are drawn, or none.
    """
    order = torch.randperm(count // tiles_per_image, generator=torch.Generator().manual_seed(settings.seed))
    drawn = order[: max(1, (settings.epoch_images or count) // tiles_per_image)].sort().values
    return (drawn[:, None] * tiles_per_image + torch.arange(tiles_per_image)).flatten()


def run_epochs(
    model: GradientModel,
    images: Tensor,
    pixels: Pixels,
    settings: TrainingSettings,
    folder: Path | None,
    resume: bool,
    progress: Progress | None,
    limit: TimeLimit | None,
    ranks: Ranks,
) -> list[HistoryRow]:
    """Train by gradients, one epoch after the other."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dtype = torch.bfloat16 if use_bf16(settings.precision, images.device) else torch.float32
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings.learning_rate, settings.weight_decay, dtype)
    sample = images[:: -(-len(images) // MAX_SAMPLED_IMAGES)]  # evenly spaced
    initial_loss = untrained_loss(model, sample, settings.seed) if ranks.is_first else math.inf
    run = run_digest(model, pixels, settings) if folder else ""
    history: list[HistoryRow] = []
    if folder and resume:
        history = load_checkpoint(folder, model, optimizer, run, len(settings.pace) or settings.epochs)
        write_history(folder, history)
    compute = loss_over(ranks, model, images.device)
    ranks.copy_from_first(tensor for state in optimizer.states for tensor in state.values())
    history, is_limited = ranks.from_first((history, limit is not None))
    steps_per_epoch = -(-min(len(images), settings.epoch_images or len(images)) // settings.batch_size)
    pacer = Pacer(settings, steps_per_epoch, limit, history)
    while (span := ranks.from_first(pacer.next_epoch(history) if ranks.is_first else None)) is not None:
        started, epoch = time.perf_counter(), len(history) + 1
        must_stop = agreed_stop(pacer, span, ranks) if is_limited else never_stop
        loss, steps = train_epoch(model, compute, images, optimizer, settings, epoch, span, must_stop, progress, ranks)
        seconds = round(time.perf_counter() - started, 3)
        end = span.end if steps == span.steps else span.progress(steps)
        share = {} if steps == steps_per_epoch else {"share": steps / steps_per_epoch}
        history.append({"epoch": epoch, "loss": loss, "progress": end, "seconds": seconds, **share})
        complete = end == 1 and limit is None and not settings.pace
        settled = not share and (complete or pacer.count_steps(history) >= MIN_SETTLED_STEPS)
        max_loss = (MAX_LOSS_RATIO if settled else MAX_EARLY_LOSS_RATIO) * initial_loss
        if loss > max_loss:  # before the checkpoint, so that a run is resumed from a network that works
            raise divergence_error(f"is worse than the {initial_loss:.3g} without any training", loss, epoch, settings)
        if folder:
            save_checkpoint(folder, model, optimizer, run, history)
            write_history(folder, history)
    return history


def train_epoch(
    model: GradientModel,
    compute: nn.Module,
    images: Tensor,
    optimizer: Adam,
    settings: TrainingSettings,
    epoch: int,
    span: Span,
    must_stop: Callable[[int], bool],
    progress: Progress | None,
    ranks: Ranks,
) -> tuple[float, int]:
    """Train on the images (N, H, W, C) once, or on some of them, in a new random order.

    `compute` gives the loss of `model`. Returns the mean loss and the number of steps: those of `span`, or fewer where
    `must_stop` says after a step that time is short.
    """
    bf16 = use_bf16(settings.precision, images.device)
    total, count = torch.zeros((), device=images.device), 0
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices), over_ranks(model, ranks):
        torch.manual_seed(settings.seed * 100_003 + epoch)
        order = torch.randperm(len(images), device=images.device)[: settings.epoch_images]
        for step, index in enumerate(torch.split(order, settings.batch_size)[: span.steps], 1):
            optimizer.factor = lr_multiplier(settings.schedule, span.progress(step - 0.5))
            batch = model.scale(images.index_select(0, index))
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
                inputs, weight = ranks.part(model.augment(batch))
                loss = weight * compute(inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
            count += len(index)
            is_last = must_stop(step) or step == span.steps
            if step == 1 or step % CHECK_EVERY == 0 or is_last:
                mean = float(ranks.sum(total)) / (ranks.size * count)
                if not math.isfinite(mean):
                    raise divergence_error("is not a number", mean, epoch, settings)
                if progress:
                    epochs = epoch + round((1 - span.end) / (span.end - span.start))
                    steps = step if is_last else span.steps
                    progress(TrainingStep(epoch, epochs, step, steps, mean, model.settings.family))
            if is_last:
                break
    return mean, step


class AugmentedLoss(nn.Module):
    """The loss of a model as a module of its own, which PyTorch can run over several processes."""

    def __init__(self, model: GradientModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Mean loss, a scalar, of what the model's `augment` drew."""
        return self.model.augmented_loss(inputs)


def loss_over(ranks: Ranks, model: GradientModel, device: torch.device) -> nn.Module:
    """The loss of a model, whose gradients are means over the processes; all start with the first one's weights."""
    loss = AugmentedLoss(model)
    if ranks.size == 1:
        return loss
    return DistributedDataParallel(loss, [device] if device.type == "cuda" else None)


def agreed_stop(pacer: Pacer, span: Span, ranks: Ranks) -> Callable[[int], bool]:
    """Whether to stop after a step of an epoch, as the first process says, whose time is limited."""
    return lambda step: ranks.from_first(pacer.must_stop(span, step))


def never_stop(step: int) -> bool:
    """Go on after each step of an epoch."""
    return False


def untrained_loss(model: GradientModel, images: Tensor, seed: int) -> float:
    """The mean loss on images (N, H, W, C) before any training, below which a working run falls."""
    model.eval()  # leaves the running means of normalization alone
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []), torch.no_grad():
        torch.manual_seed(seed)
        losses = [float(model.loss(batch)) * len(batch) for batch in model.batches(images)]
    model.train()
    return sum(losses) / len(images)


def divergence_error(problem: str, loss: float, epoch: int, settings: TrainingSettings) -> TrainingError:
    """The error of a diverged run."""
    return TrainingError(
        f"the training loss {problem} in epoch {epoch} ({loss:.3g}); try a smaller learning rate "
        f"(now {settings.learning_rate:g}), precision 'fp32' (now '{settings.precision}') or a larger batch"
    )


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether training multiplies in bfloat16: as requested, or for "auto" where the hardware is fast at it."""
    return fast_bf16(device) if precision == "auto" else precision == "bf16"

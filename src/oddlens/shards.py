"""Gradients of a batch, learned in two halves at the same time.

Within an operation of a small network the processor's threads mostly wait for each other. So a batch is cut in two, and
each half goes forward and backward in a thread of its own, on a copy of the network that shares its weights. The halves
are the same whatever the number of threads, and each draws from a generator of its own: one thread and two learn
bitwise the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from oddlens.models import Learner

SHARDS = 2
LEAST = 8  # images in a half; smaller batches are not cut


class Shards:
    """The copies of a model that learn at the same time; the first one is the model itself."""

    def __init__(self, model: Learner, device: torch.device, bf16: bool) -> None:
        self.device, self.bf16 = device, bf16
        count = SHARDS if device.type == "cpu" else 1
        self.models = [model, *(twin(model) for _ in range(count - 1))]
        self.threads = max(1, min(count, torch.get_num_threads()))
        self.pool = ThreadPoolExecutor(self.threads)

    def learn(self, pixels: Tensor, seed: int) -> Tensor:
        """Mean loss of a batch of pixels (N, H, W, C); its gradients are in the model's parameters afterwards."""
        parts = pixels.chunk(len(self.models)) if len(pixels) >= LEAST * len(self.models) else (pixels,)
        work = [
            self.pool.submit(self._learn_part, number, part, seed * SHARDS + number, len(part) / len(pixels))
            for number, part in enumerate(parts)
        ]
        losses = [each.result() for each in work]
        first, *others = (list(model.parameters()) for model in self.models[: len(parts)])
        for parameters in others:
            for mine, theirs in zip(first, parameters, strict=True):
                if mine.grad is not None and theirs.grad is not None:
                    mine.grad += theirs.grad
        return torch.stack(losses).sum()

    def _learn_part(self, number: int, pixels: Tensor, seed: int, share: float) -> Tensor:
        model = self.models[number]
        for parameter in model.parameters():
            parameter.grad = None
        model.draw = torch.Generator(self.device).manual_seed(seed)
        batch = model.scale(pixels)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            loss = model.loss(batch) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def agree(self) -> None:
        """Let all copies have the mean of what each has measured by itself: running means of normalisation."""
        every = [dict(model.named_buffers()) for model in self.models]
        for name, buffer in every[0].items():
            if buffer.is_floating_point():
                mean = torch.stack([buffers[name] for buffers in every]).mean(dim=0)
                for buffers in every:
                    buffers[name].copy_(mean)


def twin(model: Learner) -> Learner:
    """A copy with its own buffers and gradients, and the same weights in the same memory."""
    copied = copy.deepcopy(model)
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        mine.data = theirs.data
    return copied


@contextmanager
def sharded(model: Learner, device: torch.device, bf16: bool) -> Iterator[Shards]:
    """The copies of a model while it learns; operations meanwhile share what threads the copies leave."""
    threads, made = torch.get_num_threads(), Shards(model, device, bf16)
    torch.set_num_threads(max(1, threads // made.threads))
    try:
        yield made
    finally:
        made.pool.shutdown()
        torch.set_num_threads(threads)
        for each in made.models:
            each.draw = None

"""The processes that train a model together, as the model sees them; alone, a process has everything itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of PyTorch's default process group.

    All processes must call the same methods in the same order, except where there is only one: then nothing is sent,
    and values are returned as they are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process leads: it alone reads, decides, prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` rows this process has: consecutive ones, as many as any other has, or one more or fewer.

        >>> [Ranks(rank, 3).share(7) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def shares(self, count: int) -> list[int]:
        """How many of `count` rows each process has."""
        parts = [Ranks(rank, self.size).share(count) for rank in range(self.size)]
        return [part.stop - part.start for part in parts]

    def part(self, batch: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], float]:
        """The share of a batch of tensors (N, ...) that this process computes, and the weight of its mean.

        The mean over the processes of each one's mean times its weight is that of the batch. A batch with fewer images
        than processes is computed by each of them.
        """
        count = len(batch[0])
        if self.size == 1 or count < self.size:
            return tuple(batch), 1.0
        share = self.share(count)
        return tuple(values[share] for values in batch), self.size * (share.stop - share.start) / count

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes of tensors of one shape; gradients flow back to all of them."""
        if self.size == 1:
            return values
        total: Tensor = SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean, a scalar, of all values of all processes."""
        if self.size == 1:
            return values.mean()
        total = self.sum(torch.stack([values.sum(), values.new_tensor(float(values.numel()))]))
        return total[0] / total[1]

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """The rows (count, ...) of all processes, each of which has its share (n, ...)."""
        if self.size == 1:
            return rows
        shares = self.shares(count)
        padded = rows.new_zeros((max(shares), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, shares, strict=True)])

    def exchange(self, rows: Tensor, count: int) -> Tensor:
        """From (P, n, D), this process's share of `count` images at all places, to (p, count, D), all at its places."""
        if self.size == 1:
            return rows
        _, own_images, dims = rows.shape
        images, places = self.shares(count), self.shares(len(rows))
        own_places = places[self.rank]
        sent = [n * own_images * dims for n in places]
        received = [own_places * n * dims for n in images]
        incoming = rows.new_empty(sum(received))
        dist.all_to_all_single(incoming, rows.contiguous().flatten(), received, sent)
        parts = torch.split(incoming, received)
        return torch.cat([part.reshape(own_places, n, dims) for part, n in zip(parts, images, strict=True)], dim=1)

    def from_first(self, value: T) -> T:
        """What the first process passes here."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        received: T = values[0]
        return received

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


ALONE = Ranks()


class SumOverRanks(torch.autograd.Function):
    """Sum over the processes, whose gradient is the sum of the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Sum tensors of any one shape."""
        return summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients."""
        return summed(gradient)


def summed(values: Tensor) -> Tensor:
    """The sum over the processes, in a new tensor."""
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@contextlib.contextmanager
def over_ranks(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Context in which a model and its parts share what they compute with those of other processes."""
    parts = [part for part in model.modules() if hasattr(part, "ranks")]
    for part in parts:
        part.ranks = ranks  # type: ignore[assignment]  # torch types every attribute as a tensor or module
    try:
        yield
    finally:
        for part in parts:
            part.ranks = ALONE  # type: ignore[assignment]

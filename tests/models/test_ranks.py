"""Shares of rows and batches; what is sent between processes is tested in `tests/training/test_distributed.py`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oddlens.models.layers import BatchNorm
from oddlens.models.ranks import ALONE, Ranks, over_ranks


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_consecutive_complete_and_even(count: int, size: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert lengths == ALONE.shares(count) if size == 1 else Ranks(0, size).shares(count)
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 20), st.integers(1, 6))
def test_weighted_means_of_the_parts_of_a_batch_are_the_mean_of_the_batch(count: int, size: int) -> None:
    batch = torch.arange(float(count), dtype=torch.float64) ** 2
    means = []
    for rank in range(size):
        (part, same), weight = Ranks(rank, size).part((batch, batch))
        assert torch.equal(part, same)
        means.append(weight * float(part.mean()))
    assert sum(means) / size == pytest.approx(float(batch.mean()))


def test_alone_a_process_has_everything_itself() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert ALONE.is_first
    assert ALONE.sum(rows) is ALONE.gather(rows, 3) is rows
    assert ALONE.from_first("x") == "x"
    assert float(ALONE.mean(rows)) == 2.5
    assert torch.equal(ALONE.exchange(rows[:, :, None], 2), rows[:, :, None])
    ALONE.copy_from_first([rows])


def test_the_parts_of_a_model_share_only_inside_the_block() -> None:
    model, two = torch.nn.Sequential(BatchNorm(2), torch.nn.ReLU(), BatchNorm(2)), Ranks(0, 2)
    with over_ranks(model, two):
        assert [part.ranks for part in model if isinstance(part, BatchNorm)] == [two, two]
    assert [part.ranks for part in model if isinstance(part, BatchNorm)] == [ALONE, ALONE]

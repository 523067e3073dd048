"""PyTorch's threads: one for a while, and no change for others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from oddlens.inference import torch_threads
from oddlens.inference.torch_threads import fork_safe, get_threads, single_thread


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Three threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_new_thread(work: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_the_calling_thread_computes_alone_and_other_threads_keep_their_number() -> None:
    with single_thread():
        assert torch.get_num_threads() == 1
        assert in_new_thread(torch.get_num_threads) == 3
        assert in_new_thread(get_threads) == 3
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 3


def test_many_threads_can_compute_alone_at_the_same_time() -> None:
    barrier = threading.Barrier(8)

    def work() -> int:
        barrier.wait()
        with single_thread():
            barrier.wait()
            return torch.get_num_threads()

    with ThreadPoolExecutor(8) as pool:
        assert [future.result() for future in [pool.submit(work) for _ in range(8)]] == [1] * 8
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 3


def test_the_number_is_restored_after_an_error_and_by_nested_blocks() -> None:
    with pytest.raises(ZeroDivisionError), single_thread(), single_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 3


def test_only_a_forked_process_is_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    with fork_safe():
        assert torch.get_num_threads() == 3
    monkeypatch.setattr(torch_threads, "FIRST_PROCESS", 1)
    with fork_safe():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3

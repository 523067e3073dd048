"""Time limits: the time left for training is measured again and again, and what follows training is set aside."""

from __future__ import annotations

import time

import pytest
from simulated_machine import Machine

from oddlens.training.time_limit import MAX_MEASURING_SHARE, TimeLimit


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose clock is the clock."""
    machine = Machine()
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    return machine


def test_what_follows_training_is_set_aside(machine: Machine) -> None:
    limit = TimeLimit(100.0, lambda: 30.0)
    machine.now = 20.0
    assert limit.left() == 50.0


def test_members_share_the_time_for_training(machine: Machine) -> None:
    limit = TimeLimit(100.0, lambda: 10.0, sharers=3)
    assert limit.left() == 30.0
    machine.now = 20.0
    assert limit.left() == 10.0


def test_a_member_whose_machine_became_slow_leaves_the_others_their_share(machine: Machine) -> None:
    after = 10.0
    limit = TimeLimit(100.0, lambda: after, sharers=2)
    assert limit.left() == 45.0
    after, machine.now = 30.0, 20.0  # what follows now takes three times as long
    assert limit.left() == (100 - 20) / 2 - 20  # a first measurement is believed by half
    assert [limit.left() for _ in range(10)][-1] == pytest.approx((100 - 30) / 2 - 20, abs=0.1)


def test_measuring_takes_a_small_share_of_the_time(machine: Machine) -> None:
    measured = 0

    def measure() -> float:
        nonlocal measured
        measured += 1
        machine.work(0.5)
        return 5.0

    limit = TimeLimit(1000.0, measure)
    while machine.now < 200:
        machine.work(0.1)
        limit.left()
    assert 10 < measured <= 1 + 200 * MAX_MEASURING_SHARE / 0.5

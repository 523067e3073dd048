"""The simulation of batches agrees with what can be computed by hand."""

from __future__ import annotations

import pytest
from batch_simulation import Costs, most_workers, simulate

FREE = Costs(rate=10, read=0, write=0, spread=0)


def test_workers_share_the_images_where_nothing_else_takes_time() -> None:
    result = simulate(FREE, n_images=10_000, per_shard=100, n_workers=10)
    assert result.seconds == pytest.approx(100)
    assert result.busy_workers == pytest.approx(1)
    assert result.busy_leader == 0


def test_the_leading_process_limits_very_many_workers() -> None:
    costs = Costs(rate=10, read=0.001, write=0.001, spread=0)
    assert most_workers(costs, 100) == 50
    result = simulate(costs, n_images=100_000, per_shard=100, n_workers=500)
    assert result.seconds == pytest.approx(100_000 * 0.002, rel=0.1)
    assert result.busy_leader > 0.9
    assert result.busy_workers < 0.2


def test_deaths_cost_the_shards_that_they_interrupt() -> None:
    costs = Costs(rate=10, read=0, write=0, start=0, hours_to_death=100 / 3600, spread=0)
    result = simulate(costs, n_images=100_000, per_shard=100, n_workers=10)
    assert result.deaths > 50
    assert 1000 < result.seconds < 1300


def test_all_images_are_scored_also_the_last_few() -> None:
    assert simulate(FREE, n_images=105, per_shard=100, n_workers=1).seconds == pytest.approx(10.5)

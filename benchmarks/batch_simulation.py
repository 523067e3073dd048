"""How long a batch of very many images takes, by a simulation of its workers and of the process that leads them.

    python benchmarks/batch_simulation.py --images 1000000000 --rate 25 --workers 100 1000 10000

Each worker scores one shard after the other; the leading process hands out a shard (it reads rows of the manifest) and
then writes the verdicts on the one before, for one worker at a time, as `oddlens.batch.workers.Team` does. So workers
wait where it is busy. Workers die at random and begin their shard again. The defaults are measured: `docs/scale.md`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import dataclass

from oddlens.batch.shards import images_per_shard


@dataclass(frozen=True)
class Costs:
    """What was measured of a batch."""

    rate: float  # images per second of a worker
    read: float  # seconds to read a row of the manifest and send it
    write: float  # seconds for the verdict on an image
    file: float = 0.0  # seconds for a verdict file: it is synced to disk
    start: float = 0.0  # seconds until a worker is ready
    hours_to_death: float = 1e9  # of a worker, on average
    spread: float = 0.1  # of the time for a shard, as a share: standard deviation


@dataclass(frozen=True)
class Result:
    """How a simulated batch went."""

    seconds: float
    busy_workers: float  # share of the workers' time in which they score what is used
    busy_leader: float  # share of the time in which the leading process works
    deaths: int


def simulate(costs: Costs, n_images: int, per_shard: int, n_workers: int, seed: int = 0) -> Result:
    """Simulate a batch, event by event."""
    rng = random.Random(seed)
    sizes = [per_shard] * (n_images // per_shard) + [n_images % per_shard] * (n_images % per_shard > 0)
    waiting = list(reversed(sizes))
    events: list[tuple[float, int, int, bool]] = []  # time, worker, size of its shard (0: ready to begin), died
    for worker in range(min(n_workers, len(sizes))):
        heapq.heappush(events, (costs.start, worker, 0, False))
    leader_free, working, useful, deaths, end, left = 0.0, 0.0, 0.0, 0, 0.0, len(sizes)
    while left:
        now, worker, size, died = heapq.heappop(events)
        begin = max(now, leader_free)
        if died:
            deaths += 1
            waiting.append(size)
            heapq.heappush(events, (now + costs.start, worker, 0, False))
            continue
        spent = 0.0
        if waiting:
            upcoming = waiting.pop()
            spent = upcoming * costs.read
            seconds = upcoming / costs.rate * max(0.1, rng.gauss(1, costs.spread))
            death = rng.expovariate(1 / (costs.hours_to_death * 3600))
            done = begin + spent + min(seconds, death)
            heapq.heappush(events, (done, worker, upcoming, death < seconds))
            useful += seconds if death >= seconds else 0.0
        elif size == 0:
            continue
        if size:
            spent += size * costs.write + costs.file
            left -= 1
        leader_free = begin + spent
        working += spent
        end = leader_free
    return Result(end, useful / (end * n_workers), working / end, deaths)


def most_workers(costs: Costs, per_shard: int) -> int:
    """The number of workers that keep the leading process busy all the time: more of them only wait."""
    return round((per_shard / costs.rate) / (per_shard * (costs.read + costs.write) + costs.file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=32, help="images that are scored together: 32 of 256 x 256")
    parser.add_argument("--rate", type=float, default=60.0, help="images per second of a worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--read", type=float, default=1e-6, help="seconds for a row of the manifest")
    parser.add_argument("--write", type=float, default=3e-6, help="seconds for a verdict")
    parser.add_argument("--file", type=float, default=0.02, help="seconds for a verdict file")
    parser.add_argument("--start", type=float, default=5.0, help="seconds until a worker is ready")
    parser.add_argument("--hours-to-death", type=float, default=24.0, help="of a worker, on average")
    parser.add_argument("--per-shard", type=int, help="images in a shard; by default those of `oddlens batch`")
    arguments = parser.parse_args()
    costs = Costs(
        arguments.rate, arguments.read, arguments.write, arguments.file, arguments.start, arguments.hours_to_death
    )
    per_shard = arguments.per_shard or images_per_shard(arguments.images, arguments.batch)
    runs = {}
    for n_workers in arguments.workers:
        result = simulate(costs, arguments.images, per_shard, n_workers)
        runs[n_workers] = {
            "hours": round(result.seconds / 3600, 3),
            "seconds": round(result.seconds, 2),
            "images_per_second": round(arguments.images / result.seconds),
            "busy_workers": round(result.busy_workers, 3),
            "busy_leader": round(result.busy_leader, 3),
            "deaths": result.deaths,
        }
    print(json.dumps({"per_shard": per_shard, "most_workers": most_workers(costs, per_shard), "runs": runs}, indent=2))


if __name__ == "__main__":
    main()

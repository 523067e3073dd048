"""Teams of workers: each shard is scored once, whoever dies, joins or leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from oddlens.batch import workers
from oddlens.batch.shards import Shard, ShardScores
from oddlens.batch.workers import MAX_ATTEMPTS, Team, Worker, WorkerDiedError
from oddlens.errors import ArtifactError, DataError, OddlensError

RUNTIME = "test runtime"


def shard(index: int) -> Shard:
    return Shard(index, 2 * index, (f"{index}a.png", f"{index}b.png"), (None, None), (None, None))


def done(value: object) -> Future[object]:
    future = Future[object]()
    if isinstance(value, WorkerDiedError):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


class Script:
    """An engine whose workers answer at once: what `answers` says for a shard, else its scores."""

    def __init__(
        self, answers: Callable[[Shard], object] = lambda _: None, starts: Iterator[object] | None = None, n: int = 2
    ) -> None:
        self.answers, self.starts, self.n = answers, starts or iter(()), n
        self.n_workers, self.n_hired, self.is_closed = 0, 0, False
        self.asked: list[int] = []

    def hire(self) -> list[Worker]:
        new, self.n_workers = self.n - self.n_workers, self.n
        self.n_hired += new
        return [self] * new  # type: ignore[list-item]

    def start(self) -> Future[object]:
        return done(next(self.starts, RUNTIME))

    def score(self, part: Shard) -> Future[object]:
        self.asked.append(part.index)
        return done(self.answers(part) or ShardScores(np.full(len(part), float(part.index)), {}))

    def dismiss(self, worker: Worker) -> None:
        self.n_workers -= 1

    def close(self) -> None:
        self.is_closed = True


def run(engine: Script, n_shards: int = 7) -> list[int]:
    return sorted(part.index for part, _ in Team(engine, RUNTIME).score(map(shard, range(n_shards))))


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.001)


def test_each_shard_is_scored_once_and_the_workers_are_ended() -> None:
    engine = Script()
    assert run(engine) == list(range(7))
    assert sorted(engine.asked) == list(range(7))
    assert engine.is_closed


def test_without_shards_no_worker_is_started() -> None:
    engine = Script()
    assert run(engine, 0) == []
    assert engine.n_hired == 0


def test_a_shard_whose_worker_died_goes_to_a_new_one() -> None:
    deaths = iter([WorkerDiedError("killed"), WorkerDiedError("killed")])
    engine = Script(lambda part: next(deaths, None) if part.index == 3 else None)
    assert run(engine) == list(range(7))
    assert engine.asked.count(3) == 3
    assert engine.n_hired == 4


def test_a_shard_that_kills_every_worker_is_an_error_that_names_its_images() -> None:
    engine = Script(lambda part: WorkerDiedError("out of memory") if part.index == 3 else None)
    with pytest.raises(OddlensError, match=r"images 6 to 7 of the manifest \(3a.png to 3b.png\).*out of memory"):
        run(engine)
    assert engine.asked.count(3) == MAX_ATTEMPTS
    assert engine.is_closed


def test_machines_that_leave_are_not_held_against_the_images() -> None:
    leaving = iter([WorkerDiedError("node has died", with_machine=True)] * (MAX_ATTEMPTS + 2))
    engine = Script(lambda part: next(leaving, None) if part.index == 3 else None)
    assert run(engine) == list(range(7))


def test_workers_that_die_while_they_start_are_an_error() -> None:
    engine = Script(starts=iter([WorkerDiedError("no memory")] * 9))
    with pytest.raises(OddlensError, match=r"while they load the detector \(no memory\)"):
        run(engine)


def test_workers_that_can_join_only_later_are_waited_for() -> None:
    engine = Script(n=0)
    team = Team(engine, RUNTIME)

    def shards() -> Iterator[Shard]:
        yield shard(0)
        engine.n = 3
        yield shard(1)

    def join(seconds: float) -> None:
        engine.n = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oddlens.batch.workers.time.sleep", join)
        assert len(list(team.score(shards()))) == 2


def test_somebody_is_told_once_that_no_worker_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", -1)
    engine, notes, sleeps = Script(n=0), list[str](), list[float]()

    def join_late(seconds: float) -> None:
        sleeps.append(seconds)
        engine.n = int(len(sleeps) > 2)

    monkeypatch.setattr("oddlens.batch.workers.time.sleep", join_late)
    list(Team(engine, RUNTIME, notes.append).score(map(shard, range(2))))
    assert notes == [workers.NO_WORKER]


def test_another_runtime_is_refused() -> None:
    engine = Script(starts=iter(["other runtime"]))
    with pytest.raises(ArtifactError, match="other runtime, and this process with test runtime"):
        run(engine)


@pytest.mark.parametrize("where", ["start", "score"])
def test_an_error_of_a_worker_ends_the_run(where: str) -> None:
    error = DataError("the network is down")
    engine = Script(starts=iter([error])) if where == "start" else Script(lambda part: error)
    with pytest.raises(DataError, match="the network is down"):
        run(engine)
    assert engine.is_closed


def test_no_more_shards_are_taken_than_there_are_workers() -> None:
    n_read = 0

    def shards() -> Iterator[Shard]:
        nonlocal n_read
        for n_read in range(1, 101):
            yield shard(n_read)

    results = Team(Script(n=2), RUNTIME).score(shards())
    next(results)
    assert n_read <= 2 + 1 + 2  # at work, upcoming, given since
    results.close()

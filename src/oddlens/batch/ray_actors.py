"""Workers on a cluster of Ray: actors, each with a detector of one thread; machines may join and leave meanwhile."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from oddlens.batch.shards import Shard, ShardScorer, ShardScores, answer
from oddlens.batch.workers import Worker, WorkerDiedError
from oddlens.errors import MissingExtraError, OddlensError
from oddlens.io.environment import default_variable
from oddlens.io.text import first_line

LEFT = ("node has died", "node was terminated", "was preempted")  # in Ray's errors, where a machine is gone


class RayCluster:
    """An engine of actors for an exported detector, by its name and content.

    It uses the cluster that this process is connected to, the one at $RAY_ADDRESS, or starts one on this machine. There
    are `n_workers` actors, or without a number as many as the cluster has processors, and more when machines join.

    Raises:
        MissingExtraError: Ray is not installed.
        OddlensError: the cluster cannot be reached.
    """

    def __init__(self, name: str, content: bytes, n_workers: int | None) -> None:
        self.ray = import_ray()
        self.n_workers = n_workers
        self._owns_cluster = not self.ray.is_initialized()
        if self._owns_cluster:
            self._connect()
        self._name, self._content = name, self.ray.put(content)
        self._actor = self.ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(RayScorer)
        self._workers: list[RayWorker] = []

    def _connect(self) -> None:
        alone = {"address": "local", "num_cpus": self.n_workers, "include_dashboard": False}
        try:
            with default_variable("RAY_USAGE_STATS_ENABLED", "0"):  # sends data to its makers
                self.ray.init(
                    log_to_driver=False, logging_level="ERROR", **({} if os.environ.get("RAY_ADDRESS") else alone)
                )
        except Exception as error:  # Ray raises many kinds
            raise OddlensError(
                f"Ray cannot be started or reached ({first_line(error)}); check $RAY_ADDRESS, or use --engine local"
            ) from error

    def hire(self) -> list[Worker]:
        """New actors in place of those that died, and without a number of workers for new processors.

        Raises:
            OddlensError: the cluster is gone.
        """
        try:
            limit = self.n_workers or int(self.ray.cluster_resources().get("CPU", 0))
        except Exception as error:  # Ray raises many kinds
            raise OddlensError(
                f"the cluster of Ray is gone ({first_line(error)}); run the same command again when it is back"
            ) from error
        new = [
            RayWorker(self.ray, self._actor.remote(self._name, self._content))
            for _ in range(limit - len(self._workers))
        ]
        self._workers += new
        return list(new)

    def dismiss(self, worker: Worker) -> None:
        """Forget a worker that died; one that only cannot be reached would keep its processor, and is ended."""
        for other in self._workers:
            if other is worker:
                self.ray.kill(other.actor)
        self._workers = [other for other in self._workers if other is not worker]

    def close(self) -> None:
        """End all actors."""
        for worker in self._workers:
            self.ray.kill(worker.actor)
        if self._owns_cluster:
            self.ray.shutdown()


class RayScorer:
    """The process of an actor."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content
        self.scorer: ShardScorer | None = None

    def start(self) -> str | OddlensError:
        """Load the detector."""
        try:
            self.scorer = ShardScorer(self.name, self.content)
        except OddlensError as error:
            return error
        return self.scorer.runtime

    def score(self, shard: Shard) -> ShardScores | OddlensError:
        """Score a shard."""
        assert self.scorer is not None  # noqa: S101 - `Team` scores after it has started
        return answer(self.scorer, shard)


class RayWorker:
    """An actor, seen from the process that gives it shards."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def start(self) -> Future[str | OddlensError]:
        """Load the detector."""
        return self._follow(self.actor.start.remote())

    def score(self, shard: Shard) -> Future[ShardScores | OddlensError]:
        """Score a shard."""
        return self._follow(self.actor.score.remote(shard))

    def _follow(self, reference: Any) -> Future[Any]:
        """A future of the answer, whose errors are those of workers."""
        future = Future[Any]()
        future.set_running_or_notify_cancel()

        def pass_on(done: Future[Any]) -> None:
            try:
                future.set_result(done.result())
            except self.ray.exceptions.RayError as error:
                text = str(error)
                future.set_exception(WorkerDiedError(text, with_machine=any(words in text for words in LEFT)))

        reference.future().add_done_callback(pass_on)
        return future


def import_ray() -> Any:
    """The package `ray`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray", "batch") from error
    return ray

"""Actors of Ray: one run on a real cluster of one machine; more is in `benchmarks/batch_scale.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from digit_batches import ThreadEngine, write_digits, write_list

from oddlens.batch import batch_job
from oddlens.batch.batch_job import BatchJob
from oddlens.batch.ray_actors import RayCluster, RayScorer, RayWorker
from oddlens.batch.workers import WorkerDiedError
from oddlens.data.image_set import DataSet
from oddlens.errors import ArtifactError, MissingExtraError

BATCH = 256  # of digits


class RayError(Exception):
    pass


class Reference:
    """What a remote call gives, as Ray has it."""

    def __init__(self, value: object) -> None:
        self.value = value

    def future(self) -> Future[object]:
        future = Future[object]()
        if isinstance(self.value, RayError):
            future.set_exception(self.value)
        else:
            future.set_result(self.value)
        return future


def worker(answer: object) -> RayWorker:
    remote = SimpleNamespace(remote=lambda *arguments: Reference(answer))
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError))
    return RayWorker(ray, SimpleNamespace(start=remote, score=remote))


def test_an_answer_is_passed_on() -> None:
    assert worker("runtime").start().result() == "runtime"


@pytest.mark.parametrize(
    ("text", "with_machine"),
    [
        ("The actor died unexpectedly.\nThe actor died because its node has died. Node Id: 1", True),
        ("The actor died unexpectedly.\nThe actor is dead because its worker process has died.", False),
    ],
)
def test_a_machine_that_left_is_told_from_a_process_that_died(text: str, with_machine: bool) -> None:
    with pytest.raises(WorkerDiedError) as raised:
        worker(RayError(text)).start().result()
    assert raised.value.with_machine == with_machine


def test_a_detector_that_does_not_load_is_an_answer(exported: Path) -> None:
    assert isinstance(RayScorer("part.onnx", exported.read_bytes()[:-100]).start(), ArtifactError)


def test_the_extra_is_named_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs .* pip install 'oddlens\[batch\]'"):
        RayCluster("part.onnx", b"", None)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Ray on this machine, with one processor."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_an_actor_writes_the_bytes_of_a_thread(
    cluster: Any, digits: DataSet, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "images_per_shard", lambda n_images, batch: BATCH)
    manifest = write_list(write_digits(digits, tmp_path / "images", BATCH + 10), tmp_path / "m.parquet")
    results = {}
    for name in ("thread", "ray"):
        job = BatchJob(exported, manifest, tmp_path / name)
        engine = ThreadEngine(job.name, job.content) if name == "thread" else RayCluster(job.name, job.content, None)
        with job.claim(), closing(job.run(engine)) as summaries:
            *_, summary = summaries
        results[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.parquet")}
    assert results["ray"] == results["thread"]
    assert (summary.n, len(results["ray"])) == (BATCH + 10, 2)
    assert cluster.is_initialized(), "a cluster that was there before stays"

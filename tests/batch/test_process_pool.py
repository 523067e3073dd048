"""Processes that score shards: the same bytes as any engine, also when one is killed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from digit_batches import ThreadEngine, write_digits, write_list

from oddlens.batch import batch_job
from oddlens.batch.batch_job import BatchJob
from oddlens.batch.process_pool import ProcessPool, ProcessWorker
from oddlens.batch.shards import Shard
from oddlens.batch.workers import Engine, Worker, WorkerDiedError
from oddlens.data.image_set import DataSet
from oddlens.errors import ArtifactError

BATCH = 256  # of digits


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_job, "images_per_shard", lambda n_images, batch: BATCH)


def test_two_processes_of_which_one_is_killed_write_the_bytes_of_one_thread(
    digits: DataSet, exported: Path, tmp_path: Path
) -> None:
    manifest = write_list(write_digits(digits, tmp_path / "images", 3 * BATCH + 10), tmp_path / "m.parquet")
    results = {}
    for name in ("threads", "processes"):
        job = BatchJob(exported, manifest, tmp_path / name)
        engine: Engine = (
            ThreadEngine(job.name, job.content) if name == "threads" else KilledOnce(job.name, job.content, n_workers=2)
        )
        with job.claim(), closing(job.run(engine)) as summaries:
            *_, summary = summaries
        results[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.parquet")}
    assert results["processes"] == results["threads"]
    assert len(results["processes"]) == 4
    assert summary.deaths == 1


class KilledOnce(ProcessPool):
    """A pool whose first process is killed as soon as it is there."""

    is_killed = False

    def hire(self) -> list[Worker]:
        new = super().hire()
        if not self.is_killed:
            assert isinstance(new[0], ProcessWorker)
            new[0].process.kill()
            self.is_killed = True
        return new


def test_a_process_says_how_it_ended_and_what_is_wrong_with_a_detector(exported: Path) -> None:
    worker = ProcessWorker("part.onnx", exported.read_bytes()[:-100])
    assert isinstance(worker.start().result(), ArtifactError)
    with pytest.raises(WorkerDiedError, match="ended with code 0"):
        worker.score(Shard(0, 0, ("a.png",), (None,), (None,))).result()
    worker.close()

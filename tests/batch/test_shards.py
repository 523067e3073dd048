"""Shards: scored as `oddlens score` scores them, with an error in place of each image that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from digit_batches import write_digits, write_list
from PIL import Image

from oddlens.batch.image_manifest import ImageManifest
from oddlens.batch.scoring_job import ScoringJob
from oddlens.batch.shards import Shard, ShardScorer, answer, images_per_shard
from oddlens.data.image_set import DataSet
from oddlens.data.open import open_images
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.inference import scoring
from oddlens.io.journal import open_journal

BATCH = 16


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", BATCH)


@pytest.fixture(scope="module")
def scorer(exported: Path) -> ShardScorer:
    return ShardScorer("part.onnx", exported.read_bytes())


@pytest.fixture
def folder(digits: DataSet, tmp_path: Path) -> Path:
    return write_digits(digits, tmp_path / "images", 70)


def shards_of(folder: Path, n: int = 3 * BATCH) -> list[Shard]:
    return list(ImageManifest(write_list(folder, folder.parent / "m.parquet")).shards(n))


def test_scores_are_bitwise_those_of_the_command_score(scorer: ShardScorer, exported: Path, folder: Path) -> None:
    job = ScoringJob(Detector.load(exported, threads=1), open_images([folder]), skip_unreadable=True)
    (folder / "0020.png").write_bytes(b"no image")
    with open_journal(None, {}, resume=False) as journal:
        list(job.score(journal))
        expected = [score for entry in journal for score in entry["scores"]]
    result = [scorer(shard) for shard in shards_of(folder)]
    scores = np.concatenate([part.anomaly_score for part in result])
    assert [len(part.anomaly_score) for part in result] == [48, 22]
    assert scores[~np.isnan(scores)].tolist() == expected
    assert np.flatnonzero(np.isnan(scores)).tolist() == [20]


def test_each_image_that_cannot_be_scored_has_its_reason(scorer: ShardScorer, folder: Path) -> None:
    (folder / "0003.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "0004.png")
    (shard,) = shards_of(folder, 80)
    (folder / "0001.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "0002.png")
    stat = (folder / "0005.png").stat()
    os.utime(folder / "0005.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    errors = scorer(shard).errors
    assert list(errors) == [1, 2, 3, 4, 5]
    assert "does not exist" in errors[1]
    assert "has changed since the manifest was made" in errors[2]
    assert "is empty" in errors[3]
    assert "16 bits" in errors[4]
    assert "has changed" in errors[5]


def test_what_a_manifest_does_not_say_is_not_compared(scorer: ShardScorer, folder: Path) -> None:
    shard = Shard(0, 0, ("images/0000.png",), (None,), (None,), folder=str(folder.parent))
    assert scorer(shard).errors == {}


def test_a_shard_of_errors_alone_is_scored(scorer: ShardScorer, folder: Path) -> None:
    shard = Shard(0, 0, ("missing.png", "none.png"), (1, 1), (None, None), folder=str(folder))
    assert np.isnan(scorer(shard).anomaly_score).all()


def test_the_digest_is_that_of_all_columns() -> None:
    shards = [
        Shard(0, 0, ("a",), (1,), ("v",), ("g",)),
        Shard(0, 0, ("b",), (1,), ("v",), ("g",)),
        Shard(0, 0, ("a",), (2,), ("v",), ("g",)),
        Shard(0, 0, ("a",), (1,), ("w",), ("g",)),
        Shard(0, 0, ("a",), (1,), ("v",), ("h",)),
        Shard(0, 0, ("a",), (1,), (None,)),
    ]
    assert len({shard.digest for shard in shards}) == 6
    assert Shard(5, 99, ("a",), (1,), ("v",), ("g",)).digest == shards[0].digest


@pytest.mark.parametrize("n_images", [1, 999, 200_000, 10**7, 10**9])
@pytest.mark.parametrize("batch", [1, 7, 32, 256])
def test_shards_cut_no_batch_in_two(n_images: int, batch: int) -> None:
    count = images_per_shard(n_images, batch)
    assert count % batch == 0
    assert 16 * batch <= count < 65_536 + batch


def test_an_error_that_ends_the_run_is_a_value(
    scorer: ShardScorer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(shard: Shard) -> None:
        raise ArtifactError("scores are not finite")

    (shard,) = shards_of(folder, 80)
    assert isinstance(answer(fail, shard), ArtifactError)  # type: ignore[arg-type]

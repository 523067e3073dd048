"""Batches: resumed to the same bytes, refused into foreign folders, with an error row for each bad image."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from digit_batches import N_DIGITS, N_SHARD, ThreadEngine, write_digits, write_list

from oddlens.batch import batch_job
from oddlens.batch.batch_job import BatchJob, BatchSummary
from oddlens.batch.shard_files import write_shard
from oddlens.batch.shards import Shard
from oddlens.config.base import DecisionSettings
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, DiskFullError, OddlensError, SettingsError
from oddlens.inference import scoring
from oddlens.io.own_files import MARKER
from oddlens.io.own_folder import lock


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 16)
    monkeypatch.setattr(batch_job, "images_per_shard", lambda n_images, batch: N_SHARD)


@pytest.fixture
def folder(digits: DataSet, tmp_path: Path) -> Path:
    return write_digits(digits, tmp_path / "images")


@pytest.fixture
def manifest(folder: Path, tmp_path: Path) -> Path:
    return write_list(folder, tmp_path / "m.parquet")


def run(
    detector: Path, manifest: Path, output: Path, before: Callable[[Shard], object] = lambda _: None, **options: bool
) -> BatchSummary:
    job = BatchJob(detector, manifest, output, **options)
    with job.claim(), closing(job.run(ThreadEngine(job.name, job.content, 2, before))) as summaries:
        *_, summary = summaries
    return summary


def content(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def fail_at(index: int) -> Callable[[Shard], None]:
    def before(shard: Shard) -> None:
        if shard.index == index:
            raise KeyboardInterrupt

    return before


def test_every_image_has_one_row_in_the_order_of_the_manifest(exported: Path, manifest: Path, tmp_path: Path) -> None:
    summary = run(exported, manifest, tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    assert table.column("file").to_pylist() == pq.read_table(manifest).column("file").to_pylist()
    assert sorted(content(tmp_path / "out")) == [
        MARKER,
        "part-000000.parquet",
        "part-000001.parquet",
        "part-000002.parquet",
    ]
    labels = table.column("label").to_pylist()
    assert (summary.n, summary.n_anomalous, summary.n_normal) == (N_DIGITS, sum(labels), N_DIGITS - sum(labels))
    assert summary.lot.parts[""].n_images == N_DIGITS
    test, images = summary.lot.test(), [str(manifest.parent / name) for name in table.column("file").to_pylist()]
    assert test is not None
    assert test == Detector.load(exported).test_lot(table.column("anomaly_score").to_numpy(), images=images)
    assert test.light is not None


def test_an_interrupted_run_is_resumed_to_the_same_bytes(exported: Path, manifest: Path, tmp_path: Path) -> None:
    run(exported, manifest, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(exported, manifest, tmp_path / "out", fail_at(1))
    assert len(content(tmp_path / "out")) in (1, 2, 3), "the marker, and what was done before"
    scored = list[int]()
    summary = run(exported, manifest, tmp_path / "out", lambda shard: scored.append(shard.index))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert 1 in scored
    assert summary.resumed + sum([48, 48, 34][index] for index in scored) == N_DIGITS == summary.n


def test_a_finished_batch_starts_no_worker(exported: Path, manifest: Path, tmp_path: Path) -> None:
    first = run(exported, manifest, tmp_path / "out")
    job = BatchJob(exported, manifest, tmp_path / "out")
    engine = ThreadEngine(job.name, job.content)
    with job.claim(), closing(job.run(engine)) as summaries:
        *_, again = summaries
    assert engine.workers == []
    assert (again.n, again.n_anomalous, again.resumed) == (first.n, first.n_anomalous, N_DIGITS)
    assert again.lot.test() == first.lot.test()


def test_a_damaged_file_is_scored_again_and_named(exported: Path, manifest: Path, tmp_path: Path) -> None:
    run(exported, manifest, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out/part-000001.parquet").write_bytes(before["part-000001.parquet"][:-9])
    (tmp_path / "out/part-000002.parquet").write_bytes(before["part-000000.parquet"])
    (tmp_path / "out/.oddlens-0123456789abcdef.partial").write_bytes(b"of a killed run")
    summary = run(exported, manifest, tmp_path / "out")
    assert summary.replaced == ["part-000001.parquet", "part-000002.parquet"]
    assert content(tmp_path / "out") == before


def test_bad_images_are_rows_and_can_be_tried_again(
    exported: Path, manifest: Path, folder: Path, tmp_path: Path
) -> None:
    whole = run(exported, manifest, tmp_path / "whole")
    moved = [folder / "0003.png", folder / "0100.png"]
    for path in moved:
        path.rename(f"{path}.moved")
    summary = run(exported, manifest, tmp_path / "out")
    assert (summary.n, summary.n_errors) == (N_DIGITS, 2)
    assert summary.n_normal + summary.n_anomalous == N_DIGITS - 2
    assert [name for name, _ in summary.first_errors] == [str(path) for path in moved]
    assert summary.lot.parts[""].n_images == N_DIGITS - 2
    for path in moved:
        Path(f"{path}.moved").rename(path)
    assert run(exported, manifest, tmp_path / "out").n_errors == 2, "what is done is not done again"
    again = run(exported, manifest, tmp_path / "out", retry_errors=True)
    assert (again.n_errors, again.resumed, again.replaced) == (0, N_SHARD, [])
    assert again.n_anomalous == whole.n_anomalous
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_the_first_errors_are_the_first_of_the_manifest_whatever_shard_is_done_first(
    exported: Path, manifest: Path, folder: Path, tmp_path: Path
) -> None:
    bad = [folder / f"{i:04}.png" for i in (3, *range(60, 72))]
    for path in bad:
        path.unlink()
    is_last_begun = threading.Event()

    def before(shard: Shard) -> None:
        if shard.index == 0:
            assert is_last_begun.wait(60)
        elif shard.index == 2:
            is_last_begun.set()

    summary = run(exported, manifest, tmp_path / "out", before)
    assert summary.n_errors == 13
    assert [name for name, _ in summary.first_errors] == [str(path) for path in bad[:10]]


def test_another_detector_threshold_or_manifest_is_refused(
    exported: Path, manifest: Path, folder: Path, tmp_path: Path
) -> None:
    run(exported, manifest, tmp_path / "out")
    before = content(tmp_path / "out")
    moved = Detector.load(exported).set_decision(DecisionSettings(false_alarm_rate=0.2)).save(tmp_path / "moved.onnx")
    with pytest.raises(ArtifactError, match="a different detector or threshold; choose another folder"):
        run(moved, manifest, tmp_path / "out")
    (folder / "0000.png").unlink()
    with pytest.raises(ArtifactError, match="a different manifest"):
        run(exported, write_list(folder, tmp_path / "m2.parquet"), tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_folder_with_other_tables_is_refused(exported: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(manifest, tmp_path / "out/part-000000.parquet")
    with pytest.raises(SettingsError, match=r"part-000000.parquet: is not a verdict file of this batch"):
        run(exported, manifest, tmp_path / "out")


def test_two_runs_at_a_time_are_refused(exported: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"), pytest.raises(ArtifactError, match="another run is writing"):
        run(exported, manifest, tmp_path / "out")


def test_a_full_disk_ends_the_run_and_loses_nothing(
    exported: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(exported, manifest, tmp_path / "whole")

    def write(path: Path, table: object, origin: dict[str, str]) -> None:
        if path.name == "part-000002.parquet":
            raise DiskFullError(f"{path}: cannot be written (No space left on device)")
        write_shard(path, table, origin)

    with monkeypatch.context() as patch:
        patch.setattr(batch_job, "write_shard", write)
        job = BatchJob(exported, manifest, tmp_path / "out")
        engine = ThreadEngine(job.name, job.content)
        with job.claim(), closing(job.run(engine)) as summaries, pytest.raises(DiskFullError):
            list(summaries)
    assert engine.is_closed
    assert run(exported, manifest, tmp_path / "out").resumed == 2 * N_SHARD
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_in_place_of_the_folder_is_an_error(exported: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OddlensError, match="out"):
        run(exported, manifest, tmp_path / "out")


@pytest.mark.parametrize("what", ["moved", "changed"])
def test_a_manifest_whose_images_are_all_elsewhere_is_refused(
    what: str, exported: Path, manifest: Path, folder: Path, tmp_path: Path
) -> None:
    if what == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataNotFoundError, match="and so for all of the first 8 images"):
        run(exported, manifest, tmp_path / "out")
    assert list(content(tmp_path / "out")) == [MARKER]


def test_a_relative_path_begins_where_the_command_runs(
    exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = write_list(Path("images"), tmp_path / "m.parquet")
    assert pq.read_table(manifest).column("file")[0].as_py() == "images/0000.png"
    assert run(exported, manifest, tmp_path / "out").n_errors == 0


def test_images_in_the_memory_of_a_process_are_refused(exported: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"file": ["memory:///a.png"]}), tmp_path / "m.parquet")
    with pytest.raises(SettingsError, match="memory of one process"):
        run(exported, tmp_path / "m.parquet", tmp_path / "out")


def test_only_exported_detectors_score_batches(saved: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="oddlens export"):
        BatchJob(saved, manifest, tmp_path / "out")


def test_thresholds_of_groups_are_those_of_the_manifest(
    exported: Path, digits: DataSet, folder: Path, manifest: Path, tmp_path: Path
) -> None:
    from oddlens.data.groups import assign_groups
    from oddlens.data.open import open_images

    write_digits(digits, tmp_path / "cameras/front", 70)
    write_digits(digits, tmp_path / "cameras/back", 70, start=70)
    normals = assign_groups(open_images([tmp_path / "cameras"]), "folder")
    grouped = Detector.load(exported).calibrate(
        normals, decision=DecisionSettings(false_alarm_rate=0.2), count_by="image"
    )
    part = grouped.save(tmp_path / "grouped.onnx")
    with pytest.raises(SettingsError, match="has no groups: make it again with `oddlens manifest --group-by`"):
        BatchJob(part, manifest, tmp_path / "out")
    with pytest.raises(SettingsError, match="has no calibration images"):
        BatchJob(part, write_list(folder, tmp_path / "g.parquet", "folder"), tmp_path / "out")
    listed = write_list(tmp_path / "cameras", tmp_path / "cameras.parquet", "folder")
    assert run(part, listed, tmp_path / "out").n == 140
    table, expected = pq.read_table(tmp_path / "out"), grouped.predict(normals)
    assert table.column("threshold").to_pylist() == expected.threshold.tolist()
    assert len(set(expected.threshold)) == 2

"""Batches at scale: the same bytes whatever breaks, what the engines cost, and what the process that leads them can do.

    python benchmarks/batch_scale.py survive --detector part.onnx --images FOLDER --work DIR
    python benchmarks/batch_scale.py overhead --detector part.onnx --images FOLDER --work DIR --workers 2
    python benchmarks/batch_scale.py driver --detector part.onnx --work DIR --rows 1000000

`survive` runs `oddlens batch` over all images of the folder and compares its rows with those of `oddlens score`. Then
it disturbs runs, whose verdict files must be the same to the byte: on a cluster of Ray with two nodes, of which one is
removed and another joins, and with both engines one whose process is killed and which is run again.

`overhead` compares images per second without start-up, and processor seconds of all processes with it, with a plain
loop over the images on as many cores, on images of 256 pixels or more.

`driver` gives the rows of a manifest of images that do not exist to workers that answer at once: what the process that
leads a batch can do at most, how fast it verifies what is done, and its memory. Then to workers that wait for some
seconds: how long it takes, and what `batch_simulation.py` says. The first run of a size makes the manifest, the second
tells the memory.

Each prints JSON; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from batch_simulation import Costs, simulate
from cells import say

from oddlens.batch import batch_job
from oddlens.batch.batch_job import BatchJob
from oddlens.batch.image_manifest import ImageList, ImageManifest, write_manifest
from oddlens.batch.remote_files import RemoteFile
from oddlens.batch.shards import Shard, ShardScores
from oddlens.batch.workers import Worker
from oddlens.data.open import open_images
from oddlens.detector.detector import Detector
from oddlens.inference.scoring import anomaly_scores, batch_size
from oddlens.io.allocator import keep_freed_memory

ODDLENS = (sys.executable, "-m", "oddlens")


def oddlens(*arguments: object) -> dict[str, Any]:
    """The JSON of a command, with the processor seconds of its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*ODDLENS, *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stderr, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout), "cpu_seconds": round(cpu, 2)}


def verdict_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


# -- survive --------------------------------------------------------------------------------------


def survive(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare batches with `score`, and disturbed ones with undisturbed ones."""
    import pyarrow.parquet as pq

    work, detector, workers = arguments.work, arguments.detector, arguments.workers
    manifest, scored, whole = work / "manifest.parquet", work / "score.parquet", work / "local"
    say("manifest")
    result: dict[str, Any] = {"n": oddlens("manifest", arguments.images, "-o", manifest)["n"], "seconds": {}}
    if not scored.exists():
        say("score")
        oddlens("score", detector, arguments.images, "-o", scored, "--threads", 1)
    say("batch --engine local")
    summary = oddlens("batch", detector, manifest, "-o", whole, "--workers", workers)
    result["local"] = {key: summary[key] for key in ("images_per_second", "seconds", "cpu_seconds", "n_errors")}
    expected, rows = verdict_files(whole), pq.read_table(whole)
    result["same_rows_as_score"] = rows.drop_columns("error").equals(pq.read_table(scored))
    result["each_image_once"] = len(set(rows.column("file").to_pylist())) == len(rows) == result["n"]
    command = ["batch", detector, manifest, "--workers", workers]
    say("local, killed")
    result["local_killed"] = killed([*command, "-o", work / "local-killed"], work / "local-killed", expected)
    with cluster(workers) as (address, nodes):
        os.environ["RAY_ADDRESS"] = address
        command += ["--engine", "ray"]
        say("ray, two nodes")
        summary = oddlens(*command, "-o", work / "ray")
        result["ray"] = {key: summary[key] for key in ("images_per_second", "seconds", "worker_deaths")}
        result["ray"]["same_bytes"] = verdict_files(work / "ray") == expected
        say("ray, killed")
        result["ray_killed"] = killed([*command, "-o", work / "ray-killed"], work / "ray-killed", expected)
        say("ray, a node leaves and one joins")
        steps = {0.25: nodes.remove, 0.6: nodes.add}
        process = start([*command, "-o", work / "ray-node", "--json"])
        for share, step in steps.items():
            wait_for(process, work / "ray-node", share * len(expected))
            step()
        summary = json.loads(finish(process))
        result["ray_node_removed"] = {
            "finished": True,
            "worker_deaths": summary["worker_deaths"],
            "same_bytes": verdict_files(work / "ray-node") == expected,
        }
    return result


def start(arguments: list[object]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*ODDLENS, *map(str, arguments)], stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a batch ended with code {process.returncode}")
    return output


def wait_for(process: subprocess.Popen[bytes], folder: Path, count: float) -> None:
    """Wait until a batch has written so many verdict files."""
    while process.poll() is None and len(list(folder.glob("*.parquet"))) < count:
        time.sleep(0.1)
    if process.poll() is not None:
        raise SystemExit("the batch was done before it could be disturbed; take more images")


def killed(arguments: list[object], folder: Path, expected: dict[str, bytes]) -> dict[str, Any]:
    """Kill a batch at a third and at two thirds, then let it finish."""
    for share in (1 / 3, 2 / 3):
        process = start(arguments)
        wait_for(process, folder, share * len(expected))
        process.send_signal(signal.SIGKILL)
        process.wait()
    summary = json.loads(finish(start([*arguments, "--json"])))
    return {"resumed": summary["resumed"], "n": summary["n"], "same_bytes": verdict_files(folder) == expected}


class Nodes:
    """The nodes of a cluster beside its head."""

    def __init__(self, cluster: Any, workers: int) -> None:
        self.cluster, self.cpus = cluster, max(1, workers // 2)
        self.node = cluster.add_node(num_cpus=self.cpus)

    def remove(self) -> None:
        say("a node leaves")
        self.cluster.remove_node(self.node, allow_graceful=False)

    def add(self) -> None:
        say("a node joins")
        try:
            self.node = self.cluster.add_node(num_cpus=self.cpus)
        except Exception as error:  # Ray waits for 30 seconds, which a busy machine may need
            say(f"a node could not join: {error}")


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, Nodes]]:
    """A cluster of two nodes on this machine: its address, and the nodes."""
    from ray.cluster_utils import Cluster

    head = Cluster(initialize_head=True, head_node_args={"num_cpus": max(1, workers // 2), "include_dashboard": False})
    try:
        yield head.address, Nodes(head, workers)
    finally:
        head.shutdown()


# -- overhead -------------------------------------------------------------------------------------


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second and processor seconds of each way, in alternating passes, and ratios to the plain loop."""
    manifest = arguments.work / "manifest.parquet"
    n = oddlens("manifest", arguments.images, "-o", manifest)["n"]
    passes: dict[str, list[dict[str, float]]] = {"plain": [], "local": [], "ray": []}
    for number in range(arguments.passes):
        for way, results in passes.items():
            say(f"pass {number}: {way}")
            results.append(run_way(way, arguments, manifest))
    rates = {way: [result["images_per_second"] for result in results] for way, results in passes.items()}
    cpu = {way: [result["cpu_seconds"] for result in results] for way, results in passes.items()}
    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "n": n,
        "workers": arguments.workers,
        "images_per_second": rates,
        "cpu_seconds": cpu,
        "ratio": {way: round(medians["plain"] / medians[way], 3) for way in ("local", "ray")},
        "cpu_ratio": {"local": round(statistics.median(cpu["local"]) / statistics.median(cpu["plain"]), 3)},
    }


def run_way(way: str, arguments: argparse.Namespace, manifest: Path) -> dict[str, float]:
    """One pass: images per second without start-up, and processor seconds with it (of Ray, not those of its actors)."""
    before = tree_seconds()
    if way == "plain":
        command = [sys.executable, __file__, "plain", "--detector", arguments.detector, "--images", arguments.images]
        done = subprocess.run(
            [*map(str, command), "--workers", str(arguments.workers)], stdout=subprocess.PIPE, check=True
        )
        result: dict[str, float] = json.loads(done.stdout)
    else:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            options = ("--workers", arguments.workers, "--engine", way)
            result = oddlens("batch", arguments.detector, manifest, "-o", folder, *options)
    return {"images_per_second": result["images_per_second"], "cpu_seconds": round(tree_seconds() - before, 2)}


def tree_seconds() -> float:
    """Processor seconds of this process and all below it, ended ones too."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    total = 0.0
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """A plain loop over the images in one process, with a thread for each worker."""
    with keep_freed_memory():
        backend = Detector.load(arguments.detector, device="cpu", threads=arguments.workers).backend
        images = open_images([arguments.images])
        started = time.perf_counter()
        scores = anomaly_scores(backend, images.batches(backend.spec, batch_size(backend.spec)))
        return {"n": len(scores), "images_per_second": len(scores) / (time.perf_counter() - started)}


# -- driver ---------------------------------------------------------------------------------------


class SimulatedEngine:
    """Workers that take so many seconds for a shard, without processor time, and answer with random scores."""

    def __init__(self, runtime: str, n_workers: int, seconds: float) -> None:
        self.runtime, self.n_workers, self.seconds = runtime, n_workers, seconds
        self.n_hired, self.rng = 0, np.random.default_rng(0)

    def hire(self) -> list[Worker]:
        new, self.n_hired = self.n_workers - self.n_hired, self.n_workers
        return [self] * new

    def start(self) -> Future[Any]:
        return answered(self.runtime)

    def score(self, shard: Shard) -> Future[Any]:
        return answered(ShardScores(self.rng.uniform(0, 0.1, len(shard)), {}), self.seconds)

    def dismiss(self, worker: Worker) -> None: ...

    def close(self) -> None: ...


def answered(value: object, seconds: float = 0) -> Future[Any]:
    """A future that has its result after some seconds."""
    future = Future[Any]()
    if seconds:
        threading.Timer(seconds, future.set_result, (value,)).start()
    else:
        future.set_result(value)
    return future


def driver(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows per second and memory of the process that leads a batch."""
    manifest, n = arguments.work / f"rows-{arguments.rows}.parquet", arguments.rows
    name = "s3://bucket/some/folder/of/{0:06}/image-{1:09}.png"
    if not manifest.exists():
        rng = random.Random(0)  # ETags, which do not compress
        files = [
            RemoteFile(name.format(i // 1000, i), rng.randrange(50_000, 150_000), f"{rng.getrandbits(128):032x}")
            for i in range(n)
        ]
        write_manifest(manifest, ImageList(files, (), {}), "s3://bucket")
        del files
    batch_job.check_first_images = lambda shard: None
    before = peak_memory()
    reading = timed(lambda: sum(len(shard) for shard in ImageManifest(manifest).shards(65_536)))
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        job = BatchJob(arguments.detector, manifest, Path(folder))
        runtime = job.detector.backend.name
        leading = timed(lambda: run_all(job, SimulatedEngine(runtime, 1, 0)))
        n_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.parquet"))
        again = BatchJob(arguments.detector, manifest, Path(folder))
        verifying = timed(lambda: run_all(again, SimulatedEngine(runtime, 1, 0)))
    steps = {"read": reading, "lead": leading, "verify": verifying}
    return {
        "rows": n,
        "shards": job.n_shards,
        "images_per_shard": job.images_per_shard,
        "manifest_bytes_per_row": round(manifest.stat().st_size / n, 1),
        "verdict_bytes_per_row": round(n_bytes / n, 1),
        "rows_per_second": {step: round(n / wall) for step, (wall, _) in steps.items()},
        "rows_per_cpu_second": {step: round(n / cpu) for step, (_, cpu) in steps.items()},
        "peak_mb": {"before": before, "after": peak_memory()},
        "simulation": check_simulation(arguments, manifest, leading[0] / n),
    }


def check_simulation(arguments: argparse.Namespace, manifest: Path, seconds_per_row: float) -> dict[str, float]:
    """Seconds that the leading process takes with workers that only wait, and that the simulation says."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        job = BatchJob(arguments.detector, manifest, Path(folder))
        engine = SimulatedEngine(job.detector.backend.name, arguments.workers, arguments.shard_seconds)
        measured, _ = timed(lambda: run_all(job, engine))
    costs = Costs(job.images_per_shard / arguments.shard_seconds, 0, seconds_per_row, spread=0)
    simulated = simulate(costs, arguments.rows, job.images_per_shard, arguments.workers)
    return {"measured": round(measured, 2), "simulated": round(simulated.seconds, 2)}


def run_all(job: BatchJob, engine: Any) -> None:
    with job.claim(), closing(job.run(engine)) as summaries:
        for _ in summaries:
            pass


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory() -> int:
    """Peak memory of this process in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


CHECKS = {"survive": survive, "overhead": overhead, "plain": plain, "driver": driver}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--detector", type=Path, required=True, help="exported detector, .onnx")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--work", type=Path, default=Path("runs/batch_scale"), help="folder for what is written")
    parser.add_argument("--workers", type=int, default=2, help="number of workers")
    parser.add_argument("--passes", type=int, default=3, help="passes of each way (overhead)")
    parser.add_argument("--shard-seconds", type=float, default=1.0, help="that a worker takes for a shard (driver)")
    parser.add_argument("--rows", type=int, default=10**6, help="rows of the manifest (driver)")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(CHECKS[arguments.check](arguments), indent=2))


if __name__ == "__main__":
    main()

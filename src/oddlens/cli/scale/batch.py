"""`oddlens batch`: verdicts of very many images, by many processes or machines."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oddlens.cli.options import (
    JsonOption,
    MaxAnomalousOption,
    SeedOption,
    StrictOption,
    ThreadsOption,
    path_argument,
    path_option,
)
from oddlens.cli.session import command, exit_if_shifted, report_lot

if TYPE_CHECKING:
    from oddlens.batch.batch_job import BatchJob, BatchSummary
    from oddlens.batch.workers import Engine
    from oddlens.cli.console import Console

SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal


def batch(
    detector: Annotated[Path, path_argument("DETECTOR", help="Exported detector, .onnx.")],
    manifest: Annotated[Path, path_argument("MANIFEST", help="List of images, from `oddlens manifest`.")],
    output: Annotated[Path, path_option("-o", "--output", help="Folder for the verdict files.")],
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="Processes of this machine, or a cluster of Ray.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Number of workers, of one thread each; by default all.")
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Score shards again in which images have errors.")
    ] = False,
    max_anomalous: MaxAnomalousOption = 0.1,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score very many images: a verdict file for each part of a manifest; what is done already is not done again."""
    with command(as_json, threads) as console:
        from oddlens.batch.batch_job import BatchJob

        job, started = BatchJob(detector, manifest, output, max_anomalous, retry_errors), time.perf_counter()
        with job.claim():
            count = workers or (threads if engine == "ray" else console.threads)
            progress = BatchProgress(job.manifest.n_images, console)
            try:
                with (
                    redirect_stdout(sys.stderr),  # Ray prints notes on stdout, which is for the result
                    closing(job.run(open_engine(engine, job, count), console.say)) as summaries,
                ):
                    for summary in summaries:
                        progress.show(summary)
            except KeyboardInterrupt:
                console.close()
                console.say("interrupted; to continue, run the same command again")
                raise typer.Exit(1) from None
        report(job, summary, engine, started, strict, console)


def open_engine(name: Literal["local", "ray"], job: BatchJob, n_workers: int | None) -> Engine:
    """Where the workers of a batch run; by default as many as there are processors."""
    if name == "ray":
        from oddlens.batch.ray_actors import RayCluster

        return RayCluster(job.name, job.content, n_workers)
    from oddlens.batch.process_pool import ProcessPool

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPool(job.name, job.content, min(n_workers or processors, job.n_shards))


class BatchProgress:
    """Shows how far a batch is: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.console = total, console
        self.last_line = time.perf_counter()
        self.n_replaced = self.deaths = 0

    def show(self, summary: BatchSummary) -> None:
        """Show what is done, how fast, and what went wrong since the last time."""
        for name in summary.replaced[self.n_replaced :]:
            self.console.say(f"{name}: was damaged or from other data; scored again")
        if summary.deaths > self.deaths:
            self.console.say(f"{summary.deaths - self.deaths} workers died; their images are scored again")
        self.n_replaced, self.deaths = len(summary.replaced), summary.deaths
        rate = images_per_second(summary)
        self.console.counting(f"scoring, {rate:.0f} images/s", self.total, summary.n)
        now = time.perf_counter()
        if not self.console.draws_bars and rate and now - self.last_line > SECONDS_BETWEEN_LINES:
            left = (self.total - summary.n) / rate
            self.console.say(f"{summary.n} of {self.total} images, {rate:.0f} images/s, about {left:.0f} s left")
            self.last_line = now


def images_per_second(summary: BatchSummary) -> float:
    """The rate of this run since its first worker was ready; 0 without any."""
    if summary.started is None:
        return 0.0
    return (summary.n - summary.resumed) / (time.perf_counter() - summary.started)


def report(job: BatchJob, summary: BatchSummary, engine: str, started: float, strict: bool, console: Console) -> None:
    """Print the result of a batch, with the test of the lot."""
    from oddlens.conformal.lot import guaranteed_rate

    now, ready = time.perf_counter(), summary.started
    rate, decisions = images_per_second(summary), job.detector.decisions_
    for name, error in summary.first_errors:
        console.say(f"error: {name}: {error}")
    tested = summary.lot.test()
    warnings = [] if tested is None else tested.warnings(guaranteed_rate(decisions), option="--max-anomalous")
    result = {
        "n": summary.n,
        "n_normal": summary.n_normal,
        "n_anomalous": summary.n_anomalous,
        "n_errors": summary.n_errors,
        "first_errors": [{"file": name, "error": error} for name, error in summary.first_errors],
        "threshold": decisions.threshold,
        "false_alarm_rate": decisions.false_alarm_rate,
        "lot": report_lot(tested, warnings, strict, console),
        "resumed": summary.resumed,
        "replaced": summary.replaced,
        "worker_deaths": summary.deaths,
        "engine": engine,
        "images_per_second": round(rate, 1),
        "seconds": {
            "start": round((ready or now) - started, 3),
            "score": round(now - (ready or now), 3),
        },
        "files": {"verdicts": str(job.folder), "n": job.n_shards},
    }
    line = f"{summary.n} images: {summary.n_normal} normal, {summary.n_anomalous} anomalies, {summary.n_errors} errors"
    console.result(result, [f"{line}; {rate:.0f} images/s; verdicts in {job.folder}"])
    exit_if_shifted(tested, strict)

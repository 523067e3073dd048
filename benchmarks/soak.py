"""Soak of the service: many clients, overload, kills and stops; prints what it measured as JSON lines.

    python benchmarks/soak.py part.onnx FOLDER... --images 10000 --seconds 600 --kills 50 --stops 10

FOLDERs have PNG files that the detector takes; they are posted again and again, each time with another text in them, so
that the store has to write each of them. The first part posts images from 16 clients that wait for their answers. The
second posts at random times at this rate, and at twice this rate, for `--seconds` each, to one service whose memory is
read meanwhile. The third kills the service under load again and again, the fourth stops it with SIGTERM; both look up
each acknowledged inspection. The clients share the machine with the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from http_load import LOST, Answer, Client, at_rate, endless, summary, wait_for_answers
from running_service import RunningService, running

from oddlens.detector.detector import Detector
from oddlens.store.open import open_store

MEMORY_SECONDS, WINDOWS = 5.0, 10
SEED = 0


def post_everything(detector: Path, folders: list[Path], store: Path, images: int, clients: int) -> float:
    """Post images, compare the scores with the detector's; returns images per second."""
    with running(detector, "--store", store) as service:
        started = time.perf_counter()
        answers = asyncio.run(wait_for_answers(client(service), islice(endless(folders), images), clients))
        seconds = time.perf_counter() - started
        code, errors = service.stop()
    scores = [inspection(answer)["anomaly_score"] for answer in answers]
    files = [path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.png"))][:images]
    expected = np.resize(Detector.load(detector).score(files), images)
    with open_store(str(store)) as opened:
        stored = {row.id: row.anomaly_score for page in opened.iter_inspections() for row in page}
    in_store = [stored[inspection(answer)["id"]] for answer in answers]
    report(
        "all", n=images, n_stored=len(stored), images_per_second=round(images / seconds, 1), **summary(answers),
        largest_difference_to_score=float(np.abs(scores - expected).max()), stored_scores_equal=in_store == scores,
        exit=code, stderr=errors,
    )  # fmt: skip
    return images / seconds


def post_at_rates(detector: Path, folders: list[Path], store: Path, rate: float, seconds: float) -> None:
    """Post at this rate, and at twice this rate, to one service."""
    with running(detector, "--store", store) as service, memory_of(service) as megabytes:
        for load in (1, 2):
            images = endless(folders, seed=load)
            answers = asyncio.run(at_rate(client(service), images, load * rate, seconds, SEED))
            report("load", times=load, rate=round(load * rate, 1), seconds=seconds, **summary(answers))
        windows = [round(float(np.median(window))) for window in np.array_split(megabytes, WINDOWS) if len(window)]
        code, errors = service.stop()
    report("memory", median_megabytes_in_tenths=windows, largest=max(megabytes), exit=code, stderr=errors)


def end_under_load(detector: Path, folders: list[Path], store: Path, ends: int, number: signal.Signals) -> None:
    """End the service again and again by a signal, and look up what it had acknowledged."""
    acknowledged, exits, n_answered = set[int](), set[int](), 0
    rng = np.random.default_rng(SEED)
    for end in range(ends):
        with running(detector, "--store", store) as service:
            answered, enough = list[int](), int(rng.integers(1, 60))

            def each(
                answer: Answer, answered: list[int] = answered, enough: int = enough, service: RunningService = service
            ) -> bool:
                if answer.status == 200:
                    answered.append(inspection(answer)["id"])
                    if len(answered) == enough:
                        service.process.send_signal(number)
                return answer.status not in (LOST, 503)

            asyncio.run(wait_for_answers(client(service), endless(folders, seed=end), 8, each))
            exits.add(service.process.wait())
            n_answered += len(answered)
            acknowledged |= set(answered)
    with open_store(str(store)) as opened:
        stored = {row.id for page in opened.iter_inspections() for row in page}
        report(
            number.name, ends=ends, acknowledged=n_answered, lost=len(acknowledged - stored), exits=sorted(exits),
            stored_unanswered=len(stored - acknowledged), problems=opened.check(),
        )  # fmt: skip


@contextmanager
def memory_of(service: RunningService) -> Iterator[list[float]]:
    """Megabytes of a service in memory, read while the block runs."""
    process, megabytes, end = psutil.Process(service.process.pid), list[float](), threading.Event()

    def read() -> None:
        while not end.wait(MEMORY_SECONDS):
            megabytes.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield megabytes
    finally:
        end.set()
        thread.join()


def client(service: RunningService) -> Client:
    """A client that posts to a service."""
    return Client(f"{service.url}/v1/inspect")


def inspection(answer: Answer) -> dict[str, Any]:
    """The inspection in an answer, which must be 200."""
    assert answer.status == 200, (answer.status, answer.body)
    first: dict[str, Any] = json.loads(answer.body)["inspections"][0]
    return first


def report(part: str, **values: object) -> None:
    """Print a line."""
    print(json.dumps({"part": part, **values}), flush=True)


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description="Soak of the service.")
    parser.add_argument("detector", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="with PNG files, searched to any depth")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600, help="of each load")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=10)
    options = parser.parse_args()
    report("machine", machine=platform.platform(), argv=sys.argv[1:], seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rate = post_everything(options.detector, options.folders, root / "all.db", options.images, options.clients)
        post_at_rates(options.detector, options.folders, root / "load.db", rate, options.seconds)
        end_under_load(options.detector, options.folders, root / "kills.db", options.kills, signal.SIGKILL)
        end_under_load(options.detector, options.folders, root / "stops.db", options.stops, signal.SIGTERM)


if __name__ == "__main__":
    main()

"""Our service, with its store, against a plain FastAPI handler and LitServe around the same ONNX file: a table.

    python benchmarks/peers/serving.py part.onnx FOLDER... --images 1000 --seconds 30 --repeats 3

All run ONNX Runtime on the CPU and score `--threads` images at the same time, each with one thread; the peers store
nothing. The images are those of `soak.py`. First 16 clients that wait for their answers post them, which gives images
per second. Then images come at random times, at twice the rate of the plain handler, whatever is answered; seconds are
from when a request was due, of those that were answered with 200. A repeat runs one server after the other, and the
next one in another order. The clients share the machine with the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

from cells import machine, say
from environments import environment
from http_load import Answer, Client, at_rate, endless, summary, wait_for_answers
from running_service import running

from oddlens.detector.detector import Detector

PEERS = ("fastapi", "litserve")
OURS = "oddlens serve"
CLIENTS, WARM = 16, 64
START_SECONDS = 120.0
SCRIPT = Path(__file__).parent / "plain_serving.py"


@contextlib.contextmanager
def serving(server: str, detector: Path, threads: int) -> Iterator[str]:
    """The address at which a server inspects, while it runs."""
    if server == OURS:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(detector, "--store", f"{folder}/parts.db", "--threads", threads) as service,
        ):
            yield f"{service.url}/v1/inspect"
            service.stop()
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    threshold = Detector.load(detector).predict_from_scores(["any"], np.zeros(1)).threshold[0]
    command = [environment("serving"), SCRIPT, server, detector]
    options = ["--threshold", threshold, "--threads", threads, "--port", port]
    with subprocess.Popen([*map(str, command), *map(str, options)], stdout=sys.stderr, process_group=0) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}/inspect"
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with LitServe's workers


def wait_for(port: int) -> None:
    """Wait until a port is listened to."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def measure(
    url: str, options: argparse.Namespace, rate: float | None, seed: int
) -> tuple[float, list[Answer], list[float]]:
    """Images per second of the waiting clients, the answers at twice a rate (by default twice this), and the scores."""
    asyncio.run(wait_for_answers(Client(url), islice(endless(options.folders, seed=-1), WARM), CLIENTS))
    started = time.perf_counter()
    images = islice(endless(options.folders, seed), options.images)
    answers = asyncio.run(wait_for_answers(Client(url), images, CLIENTS))
    per_second = options.images / (time.perf_counter() - started)
    assert {answer.status for answer in answers} == {200}, summary(answers)
    overload = 2 * (rate or per_second)
    others = endless(options.folders, options.repeats + seed)
    return per_second, asyncio.run(at_rate(Client(url), others, overload, options.seconds, seed)), scores(answers)


def scores(answers: list[Answer]) -> list[float]:
    """The anomaly scores in answers."""
    bodies = [json.loads(answer.body) for answer in answers]
    return [body.get("inspections", [body])[0]["anomaly_score"] for body in bodies]


def main() -> None:
    """Run all servers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="with PNG files, searched to any depth")
    parser.add_argument("--images", type=int, default=1000, help="of each run of the waiting clients")
    parser.add_argument("--seconds", type=float, default=30, help="of each run at twice the rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {server: [] for server in (PEERS[0], OURS, PEERS[1])}
    overloads: dict[str, list[Answer]] = {server: [] for server in rates}
    for repeat in range(options.repeats):
        order, found = list(rates) if repeat % 2 == 0 else [PEERS[0], PEERS[1], OURS], dict[str, list[float]]()
        for server in order:
            plain = rates[PEERS[0]][repeat] if server != PEERS[0] else None
            with serving(server, options.detector, options.threads) as url:
                per_second, answers, found[server] = measure(url, options, plain, repeat)
            rates[server].append(per_second)
            overloads[server] += answers
            say(f"{server}: {per_second:.1f} images/s; at twice the rate {summary(answers)}")
        for server in PEERS:
            np.testing.assert_allclose(found[server], found[OURS], rtol=1e-4, err_msg=server)
    print(f"{machine()}; {' '.join(sys.argv[1:])}\n")
    print("| server | images/s (each) | plain handler | p50 at 2x, s | p99 at 2x, s | answered 200 | statuses |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for server, each in rates.items():
        values = summary(overloads[server])
        ratio = statistics.median(a / b for a, b in zip(each, rates[PEERS[0]], strict=True))
        share = Counter(answer.status for answer in overloads[server])[200] / len(overloads[server])
        runs = ", ".join(f"{value:.1f}" for value in each)
        columns = (server, f"{statistics.median(each):.1f} ({runs})", f"{ratio:.2f}x", values["p50"], values["p99"])
        print(f"| {' | '.join(map(str, columns))} | {share:.0%} | {values['statuses']} |")


if __name__ == "__main__":
    main()

"""Soak of the service: many clients, overload, kills; prints what it measured as JSON lines.

    python benchmarks/soak.py part.onnx IMAGES --images 10000 --kills 50 --seconds 600

IMAGES is a folder of PNG files that the detector takes. The first part posts all images from 16 clients. The second
posts at once and at twice the rate of the first, and counts what was refused. The third kills the service under load,
and looks each acknowledged inspection up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from running_service import RunningService, post_all, running

from oddlens.detector.detector import Detector
from oddlens.store.open import open_store

Images = list[tuple[str, bytes]]


def post_everything(detector: Path, images: Images, store: Path, clients: int) -> float:
    """Post all images, compare the scores with the detector's; returns images per second."""
    with running(detector, "--store", store) as service:
        started = time.perf_counter()
        answers = [response.json()["inspections"][0] for response in post_all(service, images, clients)]
        seconds = time.perf_counter() - started
        code, errors = service.stop()
    scores = Detector.load(detector).score([content for _, content in images])
    np.testing.assert_allclose([answer["anomaly_score"] for answer in answers], scores, rtol=1e-5)
    with open_store(str(store)) as opened:
        n_stored = opened.counts()["n"]
    rate = len(images) / seconds
    report("all", n=len(images), n_stored=n_stored, images_per_second=round(rate, 1), exit=code, stderr=errors)
    return rate


def post_at_rate(detector: Path, images: Images, store: Path, rate: float, seconds: float, load: float) -> None:
    """Post at a fixed rate, whatever is answered."""
    times, statuses = list[float](), Counter[int]()

    def post(i: int, service: RunningService, start: float) -> None:
        time.sleep(max(0.0, start + i / rate - time.perf_counter()))
        begun = time.perf_counter()
        status = service.post(*images[i % len(images)]).status_code
        statuses[status] += 1
        if status == 200:
            times.append(time.perf_counter() - begun)

    with running(detector, "--store", store) as service, ThreadPoolExecutor(128) as pool:
        memory = [resident(service)]
        start = time.perf_counter()
        for done in [pool.submit(post, i, service, start) for i in range(int(rate * seconds))]:
            done.result()
        memory.append(resident(service))
        service.stop()
    p50, p99 = np.percentile(times, [50, 99]).round(3).tolist()
    refused = round(statuses[429] / sum(statuses.values()), 3)
    report("load", times=load, p50=p50, p99=p99, share_of_429=refused, statuses=dict(statuses), megabytes=memory)


def kill_under_load(detector: Path, images: Images, store: Path, kills: int) -> None:
    """Kill the service again and again, and look up what it had acknowledged."""
    acknowledged = set[int]()
    for _ in range(kills):
        with running(detector, "--store", store) as service, ThreadPoolExecutor(8) as pool:
            target, enough = len(acknowledged) + 20, threading.Event()

            def post(
                image: tuple[str, bytes], service: RunningService = service, target: int = target,
                enough: threading.Event = enough,
            ) -> None:  # fmt: skip
                try:
                    acknowledged.add(service.post(*image).json()["inspections"][0]["id"])
                except (httpx.TransportError, KeyError):
                    return
                if len(acknowledged) >= target:
                    enough.set()

            posts = [pool.submit(post, image) for image in images[:200]]
            enough.wait(120)
            service.process.kill()
            service.process.wait()
            for done in posts:
                done.result()
    with open_store(str(store)) as opened:
        lost = [number for number in acknowledged if opened.inspection(number).id != number]
        report("kills", kills=kills, acknowledged=len(acknowledged), lost=len(lost), problems=opened.check())


def resident(service: RunningService) -> int:
    """Megabytes of the service in memory (Linux)."""
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1000


def report(part: str, **values: object) -> None:
    """Print a line."""
    print(json.dumps({"part": part, **values}), flush=True)


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description="Soak of the service.")
    parser.add_argument("detector", type=Path)
    parser.add_argument("folder", type=Path, help="PNG files, searched to any depth")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600, help="of each load")
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    files = [(path.name, path.read_bytes()) for path in sorted(options.folder.rglob("*.png"))]
    images = list(islice(cycle(files), options.images))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rate = post_everything(options.detector, images, root / "all.db", options.clients)
        for load in (1.0, 2.0):
            post_at_rate(options.detector, images, root / f"load{load}.db", load * rate, options.seconds, load)
        kill_under_load(options.detector, images, root / "kills.db", options.kills)


if __name__ == "__main__":
    main()

"""Load on a service over HTTP: images posted as forms by clients that wait, or at a rate that does not."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

LOST = 0  # status of a request without an answer: no connection, or one that broke
BOUNDARY = "----oddlens-load"
END_BYTES = 12  # of a PNG file: its chunk IEND

Image = tuple[str, bytes]


@dataclass(frozen=True)
class Answer:
    """An answer, and the seconds from when its request was due."""

    status: int
    seconds: float
    body: bytes = b""


def endless(folders: Iterable[Path], seed: int = 0) -> Iterator[Image]:
    """The PNG files below folders again and again, each time with a text of its own: no two contents are the same."""
    files = [(path.name, path.read_bytes()) for folder in folders for path in sorted(folder.rglob("*.png"))]
    for number in count():
        name, content = files[number % len(files)]
        text = b"tEXt" + f"Comment\0{seed}.{number}".encode()
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        yield name, content[:-END_BYTES] + chunk + content[-END_BYTES:]


class Client:
    """Posts images over connections that are used again."""

    def __init__(self, url: str, field: str = "file") -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), int(address.port or 80)
        self.head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n".encode()
        self.field = field
        self._idle = deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()

    async def post(self, image: Image, due: float | None = None) -> Answer:
        """Post an image; `due` is by `time.perf_counter`, now by default."""
        due = time.perf_counter() if due is None else due
        try:
            status, body = await self._exchange(self._request(image))
        except (OSError, asyncio.IncompleteReadError):
            status, body = LOST, b""
        return Answer(status, time.perf_counter() - due, body)

    def _request(self, image: Image) -> bytes:
        name, content = image
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{self.field}"; filename="{name}"\r\n'
        start = f"{part}Content-Type: image/png\r\n\r\n".encode()
        end = f"\r\n--{BOUNDARY}--\r\n".encode()
        length = len(start) + len(content) + len(end)
        headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
        return b"".join([self.head, headers.encode(), start, content, end])

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split()[1]), body

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An idle connection that the service has not closed meanwhile, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop()[1].close()


async def wait_for_answers(
    client: Client, images: Iterator[Image], clients: int, each: Callable[[Answer], bool] = lambda answer: True
) -> list[Answer]:
    """Post images from several clients that wait for their answers, each until `each` is False or none is left."""
    answers = list[tuple[int, Answer]]()
    numbered = enumerate(images)

    async def work() -> None:
        for number, image in numbered:
            answer = await client.post(image)
            answers.append((number, answer))
            if not each(answer):
                return

    await asyncio.gather(*[work() for _ in range(clients)])
    client.close()
    return [answer for _, answer in sorted(answers, key=lambda item: item[0])]


async def at_rate(client: Client, images: Iterator[Image], rate: float, seconds: float, seed: int = 0) -> list[Answer]:
    """Post images at random times, `rate` a second on average, whatever is answered."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    start = time.perf_counter()
    tasks = list[asyncio.Task[Answer]]()
    for due, image in zip(start + times, images, strict=False):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(client.post(image, due)))
    answers = await asyncio.gather(*tasks)
    client.close()
    return answers


def summary(answers: list[Answer]) -> dict[str, object]:
    """Statuses and the seconds of what was accepted."""
    statuses = Counter(answer.status for answer in answers)
    seconds = [answer.seconds for answer in answers if answer.status == 200]
    p50, p99 = np.percentile(seconds, [50, 99]).round(3).tolist() if seconds else (None, None)
    share = round(statuses[429] / len(answers), 3)
    return {"p50": p50, "p99": p99, "share_of_429": share, "statuses": dict(sorted(statuses.items()))}

"""The service without HTTP: its states, its detectors, its queue, its threads, its store."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Literal, TypeVar, cast

from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.service.committing import Committer
from oddlens.service.detectors import ServedDetectors
from oddlens.service.metrics import Metrics
from oddlens.service.refusals import RefusalError
from oddlens.service.settings import ServiceSettings
from oddlens.store.open import open_store
from oddlens.store.store import NewInspection, Store

PRUNE_SECONDS = 3600.0

State = Literal["starting", "serving", "draining"]
T = TypeVar("T")


class Service:
    """Detectors that score in a few threads, behind a queue that takes no more than it can answer in time.

    Its coroutines run in one event loop, which never scores, decodes or waits for a disk.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.state: State = "starting"
        self.error: Exception | None = None  # why it could not start
        self.store: Store | None = None
        self.queued = 0  # images that wait or are scored
        self.requests = 0  # that are being answered
        self.on_commit: list[Callable[[], None]] = []  # called in the event loop after inspections were stored
        self.metrics = Metrics(self)
        self._scorers = ThreadPoolExecutor(settings.workers, "scorer")
        self._detectors: ServedDetectors | None = None
        self._committer: Committer | None = None
        self._seconds = 0.1  # that a worker takes for an image, smoothed
        self._tasks = set[asyncio.Task[object]]()

    # -- states -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the store, load the detectors, and take requests; see `load`."""
        self.load()
        self.serve()

    def load(self) -> None:
        """Open the store and load the detectors; takes seconds.

        Raises:
            OddlensError: one of them cannot be used.
        """
        if self.settings.store is not None:
            self.store = open_store(self.settings.store)
            self._committer = Committer(self.store)
        self._detectors = ServedDetectors(self.settings.detectors, self.store)

    def serve(self) -> None:
        """Take requests, from now on."""
        if self.state == "starting":  # and not told to stop meanwhile
            self.state = "serving"

    def drain(self) -> None:
        """Take no more requests; those that were taken are answered."""
        self.state = "draining"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to answer or to store."""
        return not self.requests and not self.queued

    def close(self) -> None:
        """End the threads and close the store, once all is stored."""
        self._scorers.shutdown()
        if self._committer is not None:
            self._committer.close()
        if self.store is not None:
            self.store.close()

    async def prune_regularly(self) -> None:
        """Apply the retention, now and each hour."""
        keep_days, keep_gb = self.settings.keep_days, self.settings.keep_gb
        while self.store is not None and (keep_days is not None or keep_gb is not None):
            with suppress(OddlensError):  # the next hour, or an inspection, meets it again
                await asyncio.to_thread(self.store.prune, keep_days=keep_days, keep_gb=keep_gb)
            await asyncio.sleep(PRUNE_SECONDS)

    # -- requests ---------------------------------------------------------------------------------

    def check_serving(self) -> None:
        """Refuse what is new while the service does not serve.

        Raises:
            RefusalError: 503 while starting or draining.
        """
        if self.state != "serving":
            close = self.state == "draining"
            raise RefusalError(503, f"the service is {self.state}; try again", retry_after=1, close=close)

    @property
    def detectors(self) -> ServedDetectors:
        """The detectors; they are there while draining, too, for requests that were admitted before.

        Raises:
            RefusalError: 503 while starting.
        """
        if self._detectors is None:
            self.check_serving()
        return cast(ServedDetectors, self._detectors)

    def detector(self, name: str | None) -> tuple[str, Detector]:
        """A detector by its name, which may be left out where there is one only.

        Raises:
            RefusalError: 404 for another name and where there is none, 422 for no name where there are several, 503
                while starting.
        """
        detectors = self.detectors
        if not detectors.names:
            raise RefusalError(
                404,
                "no detector is in service yet: put one into service, or start the service with one "
                "(oddlens serve part.onnx)",
            )
        names = ", ".join(detectors.names)
        if name is None and len(detectors.names) > 1:
            raise RefusalError(422, f"name the detector (detector=NAME), one of: {names}")
        name = detectors.names[0] if name is None else name
        if name not in detectors:
            raise RefusalError(404, f"there is no detector of this name; there are: {names}")
        return name, detectors[name]

    def admit(self) -> float:
        """Take a request, before its body is read. Returns its deadline, in seconds of the event loop.

        Raises:
            RefusalError: 503 while not serving, 429 while the queue is full.
        """
        self.check_serving()
        self._check_capacity(1)
        return asyncio.get_running_loop().time() + self.settings.deadline

    def _check_capacity(self, images: int) -> None:
        capacity = self.settings.queue
        if images > capacity:
            raise RefusalError(413, f"{images} images in one request are more than the queue takes ({capacity})")
        if max(self.queued + images, self.requests) > capacity:
            seconds = math.ceil(self.queued * self._seconds / self.settings.workers)
            raise RefusalError(429, "the queue is full; try again later", retry_after=max(1, min(60, seconds)))

    async def inspect(
        self, work: Callable[[], list[NewInspection]], images: int, deadline: float
    ) -> list[tuple[int | None, NewInspection]]:
        """Inspect images in a thread and store them; each has its id, where there is a store.

        Raises:
            RefusalError: 429, 413, or 504 where the deadline is over; then it may be stored all the same.
            OddlensError: as `inspecting.inspect` and `Store.add`.
        """

        async def process() -> list[tuple[int | None, NewInspection]]:
            items = await self._score(work, images, deadline)
            ids: list[int | None] = [None] * len(items)
            if self._committer is not None:
                started = time.perf_counter()
                ids = [*await asyncio.wrap_future(self._committer.submit(items))]
                self.metrics.commit_seconds.observe(time.perf_counter() - started)
                self.committed()
            return list(zip(ids, items, strict=True))

        return await self._within(process, images, deadline)

    async def compute(self, work: Callable[[], T], deadline: float) -> T:
        """Do other work of a request in a scoring thread.

        Raises:
            RefusalError, OddlensError: as `inspect`.
        """
        return await self._within(lambda: self._score(work, 1, deadline), 1, deadline)

    async def _score(self, work: Callable[[], T], images: int, deadline: float) -> T:
        loop = asyncio.get_running_loop()

        def timed() -> tuple[T, float]:
            if loop.time() > deadline:
                raise deadline_refusal(self.settings.deadline)
            started = time.perf_counter()
            return work(), time.perf_counter() - started

        result, seconds = await loop.run_in_executor(self._scorers, timed)
        self._seconds += 0.05 * (seconds / images - self._seconds)
        return result

    async def _within(self, process: Callable[[], Awaitable[T]], images: int, deadline: float) -> T:
        """Await a process until the deadline; its images leave the queue only when it has really ended."""
        self._check_capacity(images)
        self.queued += images

        async def count() -> T:
            try:
                return await process()
            finally:
                self.queued -= images

        task = asyncio.create_task(count())
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # was answered with 504
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise deadline_refusal(self.settings.deadline) from error

    def committed(self) -> None:
        """Call each of `on_commit` soon; an error in one of them reaches no request."""
        for callback in self.on_commit:
            asyncio.get_running_loop().call_soon(callback)

    async def reload(self, name: str, *, person: str) -> Detector:
        """Put what is in the file of a detector now into service; requests that have begun end with the old one.

        Raises:
            OddlensError: the file cannot be used; the old detector goes on.
        """
        return await asyncio.to_thread(self.detectors.reload, name, person=person)

    async def deploy(self, name: str, digest: str, *, person: str, reason: str = "") -> Detector:
        """Put a detector of the store into service under a name; requests that have begun end with the old one.

        Raises:
            OddlensError: as `ServedDetectors.deploy`; the old detector goes on.
        """
        return await asyncio.to_thread(self.detectors.deploy, name, digest, person=person, reason=reason)

    async def take_out(self, name: str, *, person: str, reason: str = "") -> None:
        """Take a name out of service; requests that have begun end with its detector.

        Raises:
            OddlensError: as `ServedDetectors.take_out`; the detector goes on.
        """
        await asyncio.to_thread(self.detectors.take_out, name, person=person, reason=reason)


def deadline_refusal(seconds: float) -> RefusalError:
    """The answer to a request whose deadline is over."""
    return RefusalError(504, f"no answer within the deadline of {seconds:g} s; send it again", retry_after=1)

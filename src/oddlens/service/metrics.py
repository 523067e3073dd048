"""Metrics in the format of Prometheus; each service has its own registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from oddlens.service.service import Service

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What a service counts."""

    def __init__(self, service: Service) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "oddlens_requests", "Requests answered, by route and status.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "oddlens_request_seconds", "Time from a request to its answer.", ("route",), buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "oddlens_commit_seconds", "Time that an inspection waits for the store.", buckets=SECONDS, registry=registry
        )
        self.images = Counter(
            "oddlens_images", "Images inspected, by detector and verdict.", ("detector", "verdict"), registry=registry
        )
        queued = Gauge("oddlens_queued_images", "Images that wait or are scored.", registry=registry)
        queued.set_function(lambda: service.queued)
        requests = Gauge("oddlens_open_requests", "Requests that are being answered.", registry=registry)
        requests.set_function(lambda: service.requests)
        serving = Gauge("oddlens_serving", "1 while serving, 0 while starting or draining.", registry=registry)
        serving.set_function(lambda: service.state == "serving")

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

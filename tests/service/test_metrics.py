from __future__ import annotations

from running_service import RunningService, noise, settings
from stored_inspections import DETECTOR_FILE

from oddlens.service.service import Service


def value(text: str, name: str) -> float:
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)))


def test_requests_and_images_are_counted(service: RunningService) -> None:
    service.post("a.png", noise())
    service.client.get("/nowhere")
    text = service.client.get("/metrics").text
    assert value(text, 'oddlens_requests_total{route="/v1/inspect",status="200"}') >= 1
    assert value(text, 'oddlens_requests_total{route="none",status="404"}') >= 1
    assert value(text, 'oddlens_images_total{detector="tiles",verdict="anomaly"}') >= 1
    assert value(text, 'oddlens_request_seconds_count{route="/v1/inspect"}') >= 1
    assert (value(text, "oddlens_serving"), value(text, "oddlens_queued_images")) == (1, 0)


def test_two_services_of_a_process_count_apart() -> None:
    services = [Service(settings(DETECTOR_FILE)) for _ in range(2)]
    services[0].metrics.images.labels("part", "normal").inc()
    assert b"oddlens_images_total{" not in services[1].metrics.text()

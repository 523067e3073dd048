"""The door to the service with its pages, which imports the packages of the extra only when it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddlens.service import open as service_door

if TYPE_CHECKING:
    from oddlens.service.server import OnReady
    from oddlens.service.settings import ServiceSettings


def serve(settings: ServiceSettings, on_ready: OnReady) -> None:
    """Serve until SIGTERM or SIGINT; there are pages where there is a store. See `server.run_server`.

    Raises:
        MissingExtraError: the packages of the extra `serve` are not installed.
        OddlensError: as `run_server`.
    """
    if settings.store is None:
        return service_door.serve(settings, on_ready)
    service_door.check_packages()
    from oddlens.pages.app import Pages

    return service_door.serve(settings, on_ready, [Pages()])

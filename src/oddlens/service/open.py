"""The door to the service, which imports the packages of the extra only when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from oddlens.errors import MissingExtraError

if TYPE_CHECKING:
    from oddlens.service.app import Extension
    from oddlens.service.server import OnReady
    from oddlens.service.settings import ServiceSettings

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "jinja2")


def check_packages() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        MissingExtraError: one of them is not.
    """
    if any(find_spec(package) is None for package in PACKAGES):
        raise MissingExtraError("the service", "serve")


def serve(settings: ServiceSettings, on_ready: OnReady, extensions: Sequence[Extension] = ()) -> None:
    """Serve until SIGTERM or SIGINT; see `server.run_server`.

    Raises:
        MissingExtraError: the packages of the extra `serve` are not installed.
        OddlensError: as `run_server`.
    """
    check_packages()
    from oddlens.service.server import run_server

    run_server(settings, on_ready, extensions)

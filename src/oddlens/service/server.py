"""The server: uvicorn on one address, whose SIGTERM answers what was accepted before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from types import FrameType

import uvicorn

from oddlens.errors import SettingsError
from oddlens.service.app import Extension, create_app
from oddlens.service.service import Service
from oddlens.service.settings import ServiceSettings

MAX_CONNECTIONS = 1000
KEEP_ALIVE_SECONDS = 30

OnReady = Callable[[str, Service], None]  # called with the address once requests are taken


def run_server(settings: ServiceSettings, on_ready: OnReady, extensions: Sequence[Extension] = ()) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once.

    Raises:
        SettingsError: the address cannot be listened to.
        OddlensError: a detector or the store cannot be used.
    """
    service = Service(settings)
    listener = open_listener(settings.host, settings.port)
    url = address(settings.host, listener.getsockname()[1])
    app = create_app(service, lambda app: lifespan(service, lambda: on_ready(url, service), extensions), extensions)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, ws="none", lifespan="on", proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.deadline) + 5,
    )  # fmt: skip
    with listener:
        DrainingServer(config, service).run(sockets=[listener])
    if service.error is not None:
        raise service.error


@contextlib.asynccontextmanager
async def lifespan(
    service: Service, on_ready: Callable[[], None], extensions: Sequence[Extension] = ()
) -> AsyncIterator[None]:
    """Load in the background, so that requests are answered with 503 meanwhile; at the end, store what is left."""
    ended = asyncio.Event()

    async def run() -> None:  # enters and leaves lifespans in one task, as their timeouts and task groups demand
        try:
            await asyncio.to_thread(service.load)
            async with contextlib.AsyncExitStack() as stack:
                for extension in extensions:
                    await stack.enter_async_context(extension.lifespan())
                service.serve()
                on_ready()
                pruning = asyncio.create_task(service.prune_regularly())
                await ended.wait()
                pruning.cancel()
        except Exception as error:  # ends the server, which raises it again
            service.error = error

    running = asyncio.create_task(run())
    yield
    ended.set()
    await running
    await asyncio.to_thread(service.close)


class DrainingServer(uvicorn.Server):
    """Takes no more requests from the first signal on, and ends once those that it took are answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends at once."""
        if self.service.state == "draining":
            os._exit(1)  # what is answered is on disk, and nothing else has to be
        self.service.drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end."""
        if self.service.error is not None or (self.service.state == "draining" and self.service.is_idle):
            self.should_exit = True
        return await super().on_tick(counter)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        SettingsError: the address is no address, or is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --port or --host"
        ) from error


def address(host: str, port: int) -> str:
    """The address of the service in a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

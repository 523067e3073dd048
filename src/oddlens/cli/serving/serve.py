"""`oddlens serve`: detectors over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import JsonOption, KeepDaysOption, KeepGbOption, SeedOption, ThreadsOption, path_option
from oddlens.cli.session import command

if TYPE_CHECKING:
    from oddlens.service.service import Service

ServeStoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store; by default inspections.db beside the detector."),
]


def serve(
    detectors: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DETECTOR...]", help="Exported detectors: part.onnx, or NAME=part.onnx; optional with --root."
        ),
    ] = None,
    store: ServeStoreOption = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Record nothing.")] = False,
    root: Annotated[
        Path | None,
        path_option("--root", help="Folder with photographs; enables training in the browser (/learn)."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        path_option("--token-file", help="File with a token for all callers, or with lines NAME ROLE TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Host name of the service; may be repeated."),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Maximum number of images waiting or in work.")] = 64,
    deadline: Annotated[float, typer.Option("--deadline", help="Maximum seconds from a request to its answer.")] = 30,
    max_mb: Annotated[float, typer.Option("--max-mb", help="Maximum megabytes of a request.")] = 64,
    keep_days: KeepDaysOption = None,
    keep_gb: KeepGbOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Serve detectors over HTTP: post images, get verdicts."""
    with command(as_json, threads) as console:
        from oddlens.errors import SettingsError
        from oddlens.pages.open import serve
        from oddlens.service.settings import ServiceSettings, default_store, name_detectors
        from oddlens.service.users import read_users

        if store is not None and no_store:
            raise SettingsError("--store and --no-store contradict each other; leave one of them out")
        paths = name_detectors(detectors or ())
        settings = ServiceSettings(
            detectors=paths,
            store=None if no_store else store or default_store(next(iter(paths.values()), None)),
            host=host,
            port=port,
            users=() if token_file is None else read_users(token_file),
            allowed_hosts=tuple(allow_host or ()),
            queue=queue,
            deadline=deadline,
            max_mb=max_mb,
            workers=ServiceSettings.workers if console.threads is None else console.threads + 1,
            keep_days=keep_days,
            keep_gb=keep_gb,
            root=root,
        )

        def on_ready(url: str, service: Service) -> None:
            served, name = service.detectors, None if service.store is None else service.store.name
            for remark in served.remarks:
                console.say(remark)
            files = {key: str(paths[key]) if key in paths else None for key in served.names}
            look = f"see {url}/docs" if name is None else "open it in a browser"
            where = "recording nothing" if name is None else f"recording in {name}"
            what = ", ".join(files) or "no detector yet"
            console.result(
                {"url": url, "detectors": files, "store": name},
                [f"serving {what} on {url} ({look}), {where}"],
            )

        serve(settings, on_ready)

"""Serve a folder on this machine, for the tests of downloads."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class FolderHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; below /cut/ it declares more bytes than it sends."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        else:
            super().do_GET()


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder for the duration of the with-block; gives its URL."""
    handler = functools.partial(FolderHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

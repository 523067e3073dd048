"""A private PostgreSQL server for tests: in a temporary folder, on a free port of the loopback address."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEBIAN = Path("/usr/lib/postgresql")  # where Debian and Ubuntu put the programs, out of $PATH
USERS = ("postgres", "nobody")  # one of whom runs the server where the tests are run by root, which it refuses
OPTIONS = (
    "-c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=40"
)

NUMBERS = itertools.count()


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parts[-2]))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """Run a server; yields the URL of its first database, without a file folder. Skips where that is impossible."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    user, prefix = None, list[str]()
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in USERS if name in names), None)
        if user is None or shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user for it")
        prefix = ["runuser", "-u", user, "--"]
    with tempfile.TemporaryDirectory(prefix="oddlens-postgresql-") as root:  # not pytest's, which others cannot enter
        if user is not None:
            shutil.chown(root, user)
        data, port = f"{root}/data", free_port()

        def run(*command: str) -> None:
            done = subprocess.run([*prefix, *command], cwd=root, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr + log(root)

        run(f"{folder}/initdb", "-D", data, "-U", "oddlens", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = f"-p {port} -k {root} {OPTIONS}"
        run(f"{folder}/pg_ctl", "-D", data, "-w", "-l", f"{root}/log", "-o", options, "start")
        try:
            yield f"postgresql://oddlens@127.0.0.1:{port}/postgres"
        finally:
            run(f"{folder}/pg_ctl", "-D", data, "-m", "immediate", "stop")


def new_schema(server: str, files: Path) -> str:
    """The address of an empty store in a schema of its own, which takes less time than a database."""
    import psycopg
    from psycopg import sql

    name = f"parts{next(NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return f"{server}?options=-csearch_path%3D{name}&files={files}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def log(root: str) -> str:
    """The server's log, for the message of a failure."""
    path = Path(root) / "log"
    return path.read_text() if path.exists() else ""

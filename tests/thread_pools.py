"""Watch the threads of thread pools, for tests that no thread is left running."""

from __future__ import annotations

import threading


def pool_threads() -> set[threading.Thread]:
    """The running threads of all pools in this process."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}


def have_ended(threads: set[threading.Thread]) -> bool:
    """Whether all threads end within 10 seconds each."""
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)

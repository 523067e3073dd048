"""The tests of the kernels are skipped where the plug-in is not installed, and those that compute where it cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest


class SkippedModule(pytest.Module):
    """A test module that cannot be imported without the plug-in."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("oddlens-kernels is not installed: make setup installs it where there is a C compiler")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the modules of this folder where the plug-in is not installed."""
    missing = importlib.util.find_spec("oddlens_kernels") is None
    return SkippedModule.from_parent(parent, path=module_path) if missing else None


@pytest.fixture
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run with two threads, and with the kernels on every processor that can run them, beside AMX too."""
    import torch
    from oddlens_kernels import library

    monkeypatch.setenv(library.ENVIRONMENT_VARIABLE, "on")
    if reason := library.why_unused():
        pytest.skip(reason)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

"""The way of an image: which packages it passes through from a call to the first `forward` of a model.

    python tests/image_route.py

A profiler looks at every call of a function of oddlens that gets the images, as an `ImageSet`, a path, an array of
pixels or a tensor, and notes the module when it changes.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

SIDE = 24


class Arrived(Exception):
    """The images are at a model's forward."""


def carries_images(frame: FrameType, source: str) -> bool:
    """Whether a function is called with the images in one of their forms."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
    for value in (frame.f_locals.get(name) for name in names):
        kind = type(value).__name__
        if kind in ("ImageSet", "TrainingImages", "SplitImages", "CalibrationSet", "TrainingTask", "DataSet"):
            return True
        if kind in ("ndarray", "Tensor") and value is not None and value.ndim == 4 and len(value) > 1:
            return True
        if isinstance(value, str | Path) and str(value) == source:
            return True
    return False


def route(call: Callable[[], Any], source: str) -> list[str]:
    """The modules of oddlens that the images pass through, in order, each as often as they come to it anew."""
    modules: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith("oddlens."):
            return
        if frame.f_code.co_name.startswith("<") or not carries_images(frame, source):
            return
        modules.append(module.removeprefix("oddlens."))
        if frame.f_code.co_name == "forward" and module.startswith("oddlens.models"):
            sys.setprofile(None)
            raise Arrived

    sys.setprofile(note)
    with contextlib.suppress(Arrived):
        call()
    sys.setprofile(None)
    return [module for module, _ in groupby(modules)]


def packages(modules: list[str]) -> list[str]:
    """The packages of a route, in order, each as often as the route comes to it anew."""
    return [package for package, _ in groupby(module.partition(".")[0] for module in modules)]


def returns(places: list[str]) -> int:
    """How often a route comes back to a place that it had left."""
    return len(places) - len(set(places))


def routes(folder: Path) -> dict[str, list[str]]:
    """The routes of `Detector.fit`, `Detector.score` and of the command line's `fit`, through images in a folder."""
    from oddlens.cli import app
    from oddlens.detector.detector import Detector

    images = folder / "images"
    images.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (40, SIDE, SIDE), dtype=np.uint8)):
        Image.fromarray(pixels).save(images / f"{number:02}.png")
    source, output = str(images), str(folder / "part.safetensors")
    fitted = Detector("dictionary").fit(source)
    command = ["fit", source, "-o", output, "--detector", "dictionary"]
    with contextlib.redirect_stdout(io.StringIO()):
        return {
            "Detector.fit": route(lambda: Detector("dictionary").fit(source), source),
            "Detector.score": route(lambda: fitted.score(source), source),
            "oddlens fit": route(lambda: app(command, standalone_mode=False), source),
        }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for name, modules in routes(Path(temporary)).items():
            print(f"{name}: {' > '.join(modules)}")
            print(f"    packages: {' > '.join(packages(modules))} ({returns(packages(modules))} returns)")

"""Whatever commands are run in a folder, in any order: no file of the user's changes, vanishes or is joined by others.

Only a file that a command names as its output may be replaced, and nothing that oddlens writes is read as an image.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image
from typer.testing import CliRunner

from oddlens.cli import app
from oddlens.cli.console import Console
from oddlens.data.open import open_dataset
from oddlens.detector import export
from oddlens.errors import OddlensError
from oddlens.models.base import Model

QUICK = ("--detector", "autoencoder", "--epochs", "2", "--threads", "1")
RECIPE = """
name = "lot"
[data]
source = "lot"
calibration = "split"
[model]
family = "autoencoder"
[training]
epochs = 2
"""
USER_FILES = [  # names that commands may come upon
    "d.training/a.png", "d.01234567.training/checkpoints/a.png", "d.safetensors.partial", "d.png", "history.jsonl",
    "v.csv", "v.csv.partial", "v.png", "maps/000_map.png", "maps/notes.txt", "line3.json.png", "line3.png",
    "page.html", "page/verdicts.png", "out/report.html", "out/metrics.json", "out/verdicts.csv", "out/figures/roc.png",
    "out/history.jsonl", "out/checkpoints/epoch-000001.safetensors", "out/detector.safetensors", "out/notes.txt",
    "d-v2.safetensors", "parts/extra.png", "parts/notes.txt", "parts/000_map.png", "parts/figures/a.png",
    "parts.html", "board.png", "judged.csv",
]  # fmt: skip
GRAPHS: dict[bytes, bytes] = {}  # by the weights
SMALL = np.random.default_rng(0).integers(90, 160, (60, 12, 12), dtype=np.uint8)


def image_bytes(seed: int) -> bytes:
    """A PNG image as a camera writes it."""
    with tempfile.TemporaryFile() as file:
        Image.fromarray(np.random.default_rng(seed).integers(90, 160, (12, 12), dtype=np.uint8)).save(
            file, format="PNG"
        )
        file.seek(0)
        return file.read()


def traced_once(network: Model, trace: Callable[[Model], bytes] = export.trace) -> bytes:
    """The graph of a network, traced once for the same weights: the export compares the scores in any case."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    if weights not in GRAPHS:
        GRAPHS[weights] = trace(network)
    return GRAPHS[weights]


class UserFolder(RuleBasedStateMachine):
    """A working folder of a user, who runs commands there."""

    @initialize()
    def set_up(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="user-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.chdir(self.root)
        self.patch.setattr(export, "trace", traced_once)
        self.files: dict[Path, bytes] = {}
        for i in range(20):
            self.write(Path(f"parts/{i:03}.png"), image_bytes(i))
            self.write(Path(f"lot/train/good/{i:03}.png"), image_bytes(i))
        for i in range(6):
            self.write(Path(f"lot/test/good/{i}.png"), image_bytes(100 + i))
            self.write(Path(f"lot/test/dent/{i}.png"), image_bytes(200 + i))
        self.write(Path("lot.toml"), RECIPE.encode())
        self.command("fit", "parts", "-o", "d.safetensors", *QUICK, outputs=["d.safetensors"])
        assert Path("d.safetensors").is_file()

    def write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files[path] = content

    def command(self, *arguments: str, outputs: list[str]) -> None:
        """Run a command; the files that it names as its outputs may be replaced, and are no longer the user's then."""
        done = CliRunner().invoke(app, arguments)
        assert done.exception is None or isinstance(done.exception, OddlensError | SystemExit), done.exception
        for path in map(Path, outputs):
            if path in self.files and path.is_file() and path.read_bytes() != self.files[path]:
                del self.files[path]

    @rule(names=st.lists(st.sampled_from(USER_FILES), min_size=1, max_size=6), seed=st.integers(0, 99))
    def the_user_writes_files(self, names: list[str], seed: int) -> None:
        for path in map(Path, names):
            self.write(path, image_bytes(seed) if path.suffix == ".png" else f"the user's {seed}\n".encode())

    @rule(data=st.sampled_from(["parts", "lot", "./parts"]), resume=st.booleans())
    def fit(self, data: str, resume: bool) -> None:
        self.command("fit", data, "-o", "d.safetensors", *QUICK, *["--resume"] * resume, outputs=["d.safetensors"])

    @rule(after=st.integers(1, 2))
    def interrupted_fit(self, after: int) -> None:
        steps = iter(range(after))

        def interrupt(*_: object) -> None:
            if next(steps, None) is None:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Console, "training", interrupt)
            self.command("fit", "parts", "-o", "d.safetensors", *QUICK, outputs=[])

    @rule(maps=st.sampled_from([None, "maps", "parts", "parts/maps", "."]), resume=st.booleans(), drift=st.booleans())
    def score(self, maps: str | None, resume: bool, drift: bool) -> None:
        options = [*(["--maps", maps] if maps else []), *(["--watch-drift", "line3.json"] if drift else [])]
        options += ["--resume"] * resume
        self.command("score", "d.safetensors", "parts", "-o", "v.csv", *options, outputs=["v.csv"])

    @rule(page=st.sampled_from(["page.html", "parts.html", "lot/page.html", "lot/test/page.html"]))
    def evaluate(self, page: str) -> None:
        self.command("eval", "d.safetensors", "lot", "--report", page, outputs=[page])

    @rule(page=st.sampled_from(["page.html", "parts.html", "parts/page.html"]))
    def check(self, page: str) -> None:
        self.command("check", "parts", "--html", page, "--budget", "0", outputs=[page])

    @rule(out=st.sampled_from(["out", "lot/out", "parts", "."]), resume=st.booleans())
    def recipe(self, out: str, resume: bool) -> None:
        self.command("run", "lot.toml", "--out", out, "--threads", "1", *["--resume"] * resume, outputs=[])

    @rule()
    def small_commands(self) -> None:
        self.command("export", "d.safetensors", "-o", "d.onnx", outputs=["d.onnx"])
        self.command("calibrate", "d.safetensors", "lot/test/good", "-o", "e.safetensors", outputs=["e.safetensors"])
        self.command("feedback", "d.safetensors", "judged.csv", outputs=[])

    @invariant()
    def no_file_of_the_user_changed(self) -> None:
        for path, content in getattr(self, "files", {}).items():
            assert path.is_file(), f"{path} vanished"
            assert path.read_bytes() == content, f"{path} changed"

    @invariant()
    def nothing_else_is_read_as_an_image(self) -> None:
        if hasattr(self, "files"):
            images = {str(path) for path in self.files if path.parts[0] == "parts" and path.suffix == ".png"}
            assert set(open_dataset("parts").train.names) == images

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.patch.undo()
            shutil.rmtree(self.root)


TestUserFolder: Any = UserFolder.TestCase
TestUserFolder.settings = settings(
    max_examples=8,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),  # shrinking would run hundreds of commands
    suppress_health_check=list(HealthCheck),
)

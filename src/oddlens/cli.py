"""The command line: parse, call, print. What a command does lives in the modules that it calls."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from oddlens import __version__
from oddlens.errors import MissingExtraError, OddlensError, SettingsError, UnreadableImageError
from oddlens.terminal import Terminal

if TYPE_CHECKING:
    from oddlens.config import DecisionSettings
    from oddlens.datasets import ImageSet
    from oddlens.detector import Detector

app = typer.Typer(
    help="Learns what normal images look like, from normal images alone; says which new ones are not, and where.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Literal["auto", "cpu", "cuda"]
JsonOption = Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout, and nothing else there.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads to use.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of whatever is random.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data", help="Folder with the named data sets; also $ODDLENS_DATA.")
]
NormalOption = Annotated[
    str | None, typer.Option("--normal", help="The class that is normal, in class folders or a named set.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto is CUDA when there, else the CPU.")]
DetectorOption = Annotated[str | None, typer.Option("--detector", help="Family of detector.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and name them.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on after the newest checkpoint.")]
PartArgument = Annotated[Path, typer.Argument(metavar="DETECTOR", help="Detector file, .safetensors or .onnx.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A folder, an array file, or a data set's name.")]


def main() -> None:
    """Run the command line; our own errors become one line and exit code 1."""
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is said once, by our own error
    try:
        app()
    except OddlensError as error:
        print("error:", str(error).replace("\n", "\\n"), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        sys.exit(1)


def show_version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        print(f"oddlens {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@contextlib.contextmanager
def command(as_json: bool, threads: int | None, skips: bool = False) -> Iterator[Terminal]:
    """What every computing command begins and ends with; `skips`: it can leave out unreadable images."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch and ONNX Runtime when they start
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    terminal = Terminal(as_json)
    try:
        yield terminal
    except UnreadableImageError as error:
        hint = "; or leave it out with --skip-unreadable" if skips else ""
        raise UnreadableImageError(error.name, error.reason + hint) from error
    finally:
        terminal.close()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for what is made.")] = Path("runs/demo"),
    as_json: JsonOption = False,
    threads: ThreadsOption = 1,  # the pictures are so small that more threads would wait for each other
    seed: SeedOption = None,
) -> None:
    """The main job on real handwritten digits, offline, in a minute."""
    run_recipe("demo", out=out, as_json=as_json, threads=threads, seed=seed)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="mnist, cifar10-airplane, demo, or a .toml file.")],
    data: DataDirOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for what is made; runs/RECIPE without it.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Train for so many epochs instead.")] = None,
    device: DeviceOption = "auto",
    detector: DetectorOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """A whole recipe: fit, calibrate, evaluate, pictures, report."""
    run_recipe(
        recipe, data=data, out=out, epochs=epochs, device=device, detector=detector, resume=resume,
        as_json=as_json, threads=threads, seed=seed,
    )  # fmt: skip


def run_recipe(
    name: str, *, as_json: bool, threads: int | None, seed: int | None, out: Path | None, data: Path | None = None,
    epochs: int | None = None, device: Device = "auto", detector: str | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """What `demo` and `run` share."""
    with command(as_json, threads) as terminal:
        from oddlens import findings, recipes

        recipe = recipes.changed(recipes.find(name), epochs=epochs, seed=seed, detector=detector)
        folder = out or Path("runs") / recipe.name
        work = recipes.Run(recipe, folder, data, device, terminal.training, terminal.say, typed())
        result = work(resume)
        title = recipe.title or recipe.name
        kinds, decisions = findings.kinds_table(result), findings.decisions_table(result)
        terminal.table(title, kinds.columns, kinds.rows)
        terminal.table("", decisions.columns, decisions.rows)
        lines = [findings.in_words(result, recipe.model.family), f"report: {result['files']['report']}"]
        terminal.result(result, lines)


@app.command()
def fit(
    data: DataArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Detector file to write, .safetensors.")],
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    detector: DetectorOption = None,
    device: DeviceOption = "auto",
    false_alarm_rate: Annotated[
        float | None, typer.Option("--false-alarm-rate", help="Share of normal images that may be flagged; 0.01 is 1%.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Keep the rate with this confidence instead of on average.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Train for so many epochs.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=4, help="Longer side of the pictures that the model sees.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option("--roi", help="Where an image counts: a mask image, or left,top,right,bottom in 0..1.")
    ] = None,
    skip_unreadable: SkipOption = False,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Learn from normal images, hold some out, and calibrate the decision on them."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens.config import TrainingSettings, parse
        from oddlens.datasets import open_dataset
        from oddlens.detector import Detector

        if output.suffix != ".safetensors":
            raise SettingsError(f"{output}: detector files end in .safetensors")
        asked = {"epochs": epochs, "seed": seed}
        training = parse(TrainingSettings, {k: v for k, v in asked.items() if v is not None}, "options")
        made = Detector(
            detector or "autoencoder", training=training, decision=decision(false_alarm_rate, confidence),
            size=size, roi=roi, device=device,
        )  # fmt: skip
        known = open_dataset(data, normal=normal, data_dir=data_dir)
        images, skipped = usable(known.train, skip_unreadable, terminal)
        work = output.with_suffix(".training")
        made.fit(images, source=data, normal=known.normal, folder=work, resume=resume, progress=terminal.training)
        made.save(output)
        shutil.rmtree(work, ignore_errors=True)
        manifest, seconds = made.manifest, round(time.perf_counter() - terminal.started, 3)
        result = {
            "seconds": {"fit": seconds},
            "files": {"detector": str(output)},
            "skipped": skipped,
            **summary(made),
        }
        lines = [
            f"{output}: learned from {manifest.data.n_training} normal images in {seconds:.1f} s, "
            f"calibrated on {manifest.data.n_calibration} others",
            made.decision_.promise(),
        ]
        terminal.result(result, lines)


@app.command()
def check(
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    false_alarm_rate: Annotated[
        float, typer.Option("--false-alarm-rate", help="The rate that the images should be enough for.")
    ] = 0.01,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """The data doctor: what is wrong with this data before you train."""
    with command(as_json, threads) as terminal:
        from oddlens import doctor
        from oddlens.datasets import open_dataset

        diagnosis = doctor.check(open_dataset(data, normal=normal, data_dir=data_dir), false_alarm_rate)
        facts = diagnosis.facts
        lines = [
            f"{facts['n_train']} normal images to learn from ({facts['normal']}), sizes: "
            + ", ".join(f"{size['width']}x{size['height']} ({size['n']})" for size in facts["sizes"][:3])
            + (", …" if facts["n_sizes"] > 3 else ""),
            "test images: " + (", ".join(f"{kind} {n}" for kind, n in facts["n_test"].items()) or "none"),
        ]
        for finding in diagnosis.findings:
            lines.append(f"{finding.level}: {finding.text}")
            lines += [f"    {name}" for name in finding.files[: doctor.LISTED]]
            lines += [f"    … and {len(finding.files) - doctor.LISTED} more"] * (len(finding.files) > doctor.LISTED)
        terminal.result(diagnosis.as_json, [*lines, *(["nothing wrong found"] if not diagnosis.findings else [])])


@app.command(name="eval")
def evaluate(
    detector: PartArgument,
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report with pictures here.")] = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """The metrics table on a labelled test set, with intervals."""
    with command(as_json, threads, skips=True) as terminal:
        from dataclasses import replace

        from oddlens import evaluation, findings
        from oddlens.datasets import open_dataset
        from oddlens.detector import Detector

        if report is not None and report.suffix != ".html":
            raise SettingsError(f"{report}: reports end in .html")
        part = Detector.load(detector, device=device)
        known = part.manifest.data.normal
        normal = normal or (known if known not in ("good", "all") else None)
        chosen = open_dataset(data, normal=normal, data_dir=data_dir)
        good, skipped = usable(chosen.test, skip_unreadable, terminal)
        chosen = replace(chosen, test=good)
        distort = chosen.normal == "all" and not chosen.test.labels.any()  # every class is normal
        test = evaluation.labelled_images(chosen, part.spec, seed or 0, distort)
        started = time.perf_counter()
        found = evaluation.evaluate(part, test, lambda done: terminal.counting("scoring", len(test), done))
        result = {
            "detector": str(detector),
            **found.metrics,
            "seconds": {"score": round(time.perf_counter() - started, 3)},
        }
        result["skipped"] = skipped
        if found.left_out:
            terminal.say(f"left out {found.left_out} test images that the detector was trained on")
        if report is not None:
            pictures = findings.draw(part, found, report.with_suffix(""), [])
            findings.write(report, f"{detector.name} on {chosen.name}", part, found, pictures, typed())
            result["files"] = {"report": str(report), "figures": {name: str(path) for name, path in pictures.items()}}
        low, high = result["image_auroc_ci"]
        kinds, decisions = findings.kinds_table(result), findings.decisions_table(result)
        terminal.table(f"{detector.name} on {chosen.name}", kinds.columns, kinds.rows)
        terminal.table("", decisions.columns, decisions.rows)
        lines = [f"image AUROC {result['image_auroc']:.3f} ({low:.3f} to {high:.3f})"]
        if "pixel_auroc" in result:
            lines.append(f"pixel AUROC {result['pixel_auroc']:.3f}, AUPRO {result['aupro']:.3f}")
        terminal.result(result, [*lines, findings.in_words(result, part.manifest.model.family)])


@app.command()
def score(
    detector: PartArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files and folders.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Verdict file: .csv, .jsonl or .parquet; stdout without it.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="Write each image's anomaly map as a picture here.")
    ] = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score images: a row each with its score, p-value, threshold and verdict."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens import verdicts
        from oddlens.datasets import open_images
        from oddlens.detector import Detector
        from oddlens.files import filling

        part = Detector.load(detector, device=device)
        known, skipped = usable(open_images(images), skip_unreadable, terminal)
        if maps is not None and part.map_level is None:
            raise SettingsError(f"{detector}: this detector has no maps calibrated; score without --maps")
        started, flagged, done = time.perf_counter(), 0, 0
        rows: list[verdicts.Row] = []
        with (
            verdicts.writing(output) if output else contextlib.nullcontext(rows.extend) as write,
            filling(maps) if maps else contextlib.nullcontext() as folder,
        ):
            for batch in verdicts.judged(part, known, folder):
                write(batch)
                flagged += sum(row["label"] for row in batch)
                done += len(batch)
                terminal.counting("scoring", len(known), done)
        result = {
            "n": len(known), "n_anomalous": flagged, "threshold": part.decision_.threshold,
            "false_alarm_rate": part.decision_.false_alarm_rate, "skipped": skipped,
            "seconds": {"score": round(time.perf_counter() - started, 3)},
        }  # fmt: skip
        if output:
            result["files"] = {"verdicts": str(output)} | ({"maps": str(maps)} if maps else {})
            terminal.result(result, [f"{flagged} of {len(known)} images flagged; verdicts in {output}"])
        else:
            terminal.result(result | {"verdicts": rows})
            if not as_json:
                verdicts.print_csv(rows)


@app.command()
def show(
    detector: PartArgument, as_json: JsonOption = False, threads: ThreadsOption = None, seed: SeedOption = None
) -> None:
    """What this detector is, what it promises, what it was made from."""
    with command(as_json, threads) as terminal:
        from oddlens.detector import Detector

        part = Detector.load(detector)
        manifest = part.manifest
        if as_json:
            terminal.result(summary(part) | {"manifest": manifest.model_dump(mode="json")})
            return
        spec, data = manifest.input, manifest.data
        rows = [
            ("family", manifest.model.family),
            (
                "input",
                f"{spec.width} x {spec.height}, {'grey' if spec.channels == 1 else 'colour'}, 0 to {spec.value_max}",
            ),
            ("trained on", f"{data.n_training} images of {data.source} ({data.normal})"),
            ("calibrated on", f"{data.n_calibration} images ({data.calibration_source})"),
            ("decides by", manifest.decision.method.replace("_", " ")),
            ("threshold", f"{part.decision_.threshold:.6g}"),
            ("made", f"{manifest.created} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
        ]
        terminal.table(str(detector), ("", ""), rows)
        terminal.result({}, [part.decision_.promise()])


@app.command(name="export")
def export_detector(
    detector: PartArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .onnx.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write the detector as one ONNX file, refused unless it scores the same."""
    with command(as_json, threads) as terminal:
        from oddlens.detector import Detector

        try:
            from oddlens.export import export
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        difference = export(Detector.load(detector, device="cpu"), output)
        result = {"files": {"onnx": str(output)}, "largest_relative_difference": difference}
        result["seconds"] = {"export": round(time.perf_counter() - terminal.started, 3)}
        terminal.result(
            result, [f"{output}: scores as the detector does (largest relative difference {difference:.1e})"]
        )


def usable(images: ImageSet, skip_unreadable: bool, terminal: Terminal) -> tuple[ImageSet, list[str]]:
    """The images to go on with and, where that was asked for, the names of unreadable ones that were left out."""
    if not skip_unreadable:
        return images, []
    good, problems = images.readable()
    for problem in problems:
        terminal.say(f"left out: {problem}")
    return good, [problem.name for problem in problems]


def typed() -> str:
    """What the user typed."""
    return shlex.join(["oddlens", *sys.argv[1:]])


def decision(false_alarm_rate: float | None, confidence: float | None) -> DecisionSettings:
    """The conformal decision that the options ask for."""
    from oddlens.config import DecisionSettings, parse

    asked = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    return parse(DecisionSettings, asked, "options")


def summary(part: Detector) -> dict[str, Any]:
    """What `fit` and `show` say of a detector in JSON."""
    manifest = part.manifest
    return {
        "family": manifest.model.family,
        "input": manifest.input.model_dump(),
        "n_training": manifest.data.n_training,
        "n_calibration": manifest.data.n_calibration,
        "method": manifest.decision.method,
        "false_alarm_rate": part.decision_.false_alarm_rate,
        "threshold": part.decision_.threshold,
        "promise": part.decision_.promise(),
        "history": manifest.history,
    }

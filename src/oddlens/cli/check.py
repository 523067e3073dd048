"""Commands that look at data and detectors: check, eval, show."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.shared import (
    DataArgument,
    DataDirOption,
    DeviceOption,
    GroupByOption,
    JsonOption,
    NormalOption,
    PartArgument,
    SeedOption,
    SkipOption,
    ThreadsOption,
    command,
    in_groups,
    summary,
    typed,
    usable,
)
from oddlens.errors import SettingsError


def check(
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    false_alarm_rate: Annotated[
        float, typer.Option("--false-alarm-rate", help="The rate that the images should be enough for.")
    ] = 0.01,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Time to learn what is unusual among the normals: 5m, 0 for none; up to 2m without it."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures here.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """The data doctor: what is wrong with this data before you train."""
    with command(as_json, threads) as terminal:
        from oddlens import contamination, doctor
        from oddlens.config import duration
        from oddlens.datasets import open_dataset

        if html is not None and html.suffix != ".html":
            raise SettingsError(f"{html}: pages end in .html")
        known = open_dataset(data, normal=normal, data_dir=data_dir)
        learning = contamination.usual_budget(len(known.train))
        if budget is not None:
            learning = 0.0 if budget == "0" else duration(budget)
        diagnosis = doctor.check(known, false_alarm_rate, budget=learning, seed=seed or 0, progress=terminal.training)
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
        lines += ["nothing wrong found"] if not diagnosis.findings else []
        result = diagnosis.as_json
        if html is not None:
            from oddlens import checkup

            result["files"] = {"page": str(checkup.write(html, diagnosis, typed()))}
            lines.append(f"page: {html}")
        terminal.result(result, lines)


def evaluate(
    detector: PartArgument,
    data: DataArgument,
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    group_by: GroupByOption = None,
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
        chosen = replace(chosen, test=in_groups(good, group_by, part))
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
            ("runs with", part.backend.name),
            ("trained on", f"{data.n_training} images of {data.source} ({data.normal})"),
            ("calibrated on", f"{data.n_calibration} images ({data.calibration_source})"),
            ("decides by", manifest.decision.method.replace("_", " ")),
            *(
                (f"threshold {name}".strip(), f"{one.threshold:.6g} ({len(one.calibration_scores)} images)")
                for name, one in part.decisions_.parts.items()
            ),
            *(("remark", remark) for remark in manifest.remarks),
            ("made", f"{manifest.created} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
        ]
        terminal.table(str(detector), ("", ""), rows)
        terminal.result({}, part.decisions_.told())

"""Commands that learn: demo, run, fit, compare."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    BudgetOption,
    ConfidenceOption,
    DataArgument,
    DataDirOption,
    DetectorOption,
    DeviceOption,
    GroupByOption,
    JsonOption,
    NormalOption,
    RateOption,
    ResumeOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from oddlens.cli.session import command, detector_summary, drop_unreadable, with_groups
from oddlens.errors import SettingsError

if TYPE_CHECKING:
    from oddlens.config.base import DecisionSettings
    from oddlens.config.detectors import CrossfitSettings, EnsembleSettings


def fit(
    data: DataArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Detector file to write, .safetensors.")],
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    detector: DetectorOption = None,
    budget: BudgetOption = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Fit this detector file's plan again, or that of a .json file.")
    ] = None,
    device: DeviceOption = "auto",
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    group_by: GroupByOption = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, max=20, help="Keep no image from training: so many detectors, cross-conformal."),
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
        from oddlens.config.base import TrainingSettings
        from oddlens.config.detectors import DEFAULT_BUDGET
        from oddlens.config.parse import duration, parse
        from oddlens.data.open import open_dataset
        from oddlens.detector.detector import Detector

        if output.suffix != ".safetensors":
            raise SettingsError(f"{output}: detector files end in .safetensors")
        asked = {"epochs": epochs, "seed": seed}
        training = parse(TrainingSettings, {k: v for k, v in asked.items() if v is not None}, "options")
        model, how, size = resolve_model(detector, plan, conformal_decision(false_alarm_rate, confidence), size, roi)
        limit = duration(budget) if budget else DEFAULT_BUDGET if model == "auto" else None
        wanted = model if folds is None else in_folds(model, folds)
        made = Detector(
            wanted, training=training, decision=how, size=size, roi=roi, device=device,
            budget=None if limit is None else max(1.0, limit - (time.perf_counter() - terminal.started)),
        )  # fmt: skip
        known = open_dataset(data, normal=normal, data_dir=data_dir)
        images, skipped = drop_unreadable(known.train, skip_unreadable, terminal)
        images = with_groups(images, group_by)
        work = output.with_suffix(".training")
        made.fit(images, source=data, normal=known.normal, folder=work, resume=resume, progress=terminal.training)
        made.save(output)
        shutil.rmtree(work, ignore_errors=True)
        manifest, seconds = made.manifest, round(time.perf_counter() - terminal.started, 3)
        result = {
            "seconds": {"fit": seconds},
            "files": {"detector": str(output)},
            "skipped": skipped,
            **detector_summary(made),
        }
        lines = [
            f"{output}: learned from {manifest.data.n_training} normal images in {seconds:.1f} s, "
            + ("calibrated on them, out of fold" if folds else f"calibrated on {manifest.data.n_calibration} others"),
            *manifest.remarks,
            *made.decisions_.promises(),
        ]
        terminal.result(result, lines)


def in_folds(model: str | EnsembleSettings, folds: int) -> CrossfitSettings:
    """The settings of so many detectors of one family."""
    from oddlens.config.detectors import CrossfitSettings
    from oddlens.config.parse import parse_model

    if not isinstance(model, str) or model in ("auto", "ensemble", "crossfit"):
        raise SettingsError("--folds needs a single detector: name it with --detector")
    values = {"family": "crossfit", "model": {"family": model}, "folds": folds}
    found = parse_model(values, "--detector")
    assert isinstance(found, CrossfitSettings)  # noqa: S101 - its family says so
    return found


def resolve_model(
    detector: str | None, plan: Path | None, asked: DecisionSettings, size: int | None, roi: str | None
) -> tuple[str | EnsembleSettings, DecisionSettings, int | None]:
    """The model that `fit` makes, its decision and size: as asked, or as in the detector whose plan is repeated."""
    if plan is None:
        return detector or "auto", asked, size
    if detector is not None:
        raise SettingsError(f"--plan {plan} says which detector to fit; leave out --detector {detector}")
    from oddlens.artifact import detector_file
    from oddlens.training.auto import load_plan

    model = load_plan(plan)
    if plan.suffix == ".json":
        return model, asked, size
    manifest, tensors = detector_file.load(plan)
    if detector_file.ROI in tensors and roi is None:
        raise SettingsError(f"--plan {plan}: was made with a region of interest; give the same --roi again")
    spec = manifest.input
    return model, asked if asked.model_fields_set else manifest.decision, size or max(spec.height, spec.width)


def conformal_decision(false_alarm_rate: float | None, confidence: float | None) -> DecisionSettings:
    """The conformal decision that the options ask for."""
    from oddlens.config.base import DecisionSettings
    from oddlens.config.parse import parse

    asked = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    return parse(DecisionSettings, {name: value for name, value in asked.items() if value is not None}, "options")

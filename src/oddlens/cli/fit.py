"""`oddlens fit`: a detector from normal images."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from oddlens.cli.options import (
    BudgetOption,
    ConfidenceOption,
    CountByOption,
    DataArgument,
    DataDirOption,
    DetectorOption,
    DeviceOption,
    EpochsOption,
    GroupByOption,
    JsonOption,
    LightOption,
    NoPretrainedOption,
    NormalOption,
    RateOption,
    ResumeOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
    path_option,
)
from oddlens.cli.session import (
    command,
    detector_summary,
    report_left_out,
    report_unreadable,
    waiting_seconds,
    without_none,
)
from oddlens.errors import SettingsError
from oddlens.io.own_folder import find_working_folders, lock, make_working_folder, remove_working_folder
from oddlens.io.paths import check_output

if TYPE_CHECKING:
    from oddlens.cli.console import Console
    from oddlens.config.base import DecisionSettings
    from oddlens.config.detectors import DetectorSettings, FamilySettings
    from oddlens.detector.detector import Detector
    from oddlens.training.resolve import Calibration
    from oddlens.training.tiling import Tile

BUSY_SHARE = 0.1  # of the time, above which waiting for a processor is worth a word

PlanOption = Annotated[
    Path | None,
    path_option("--plan", help="Repeat the plan of this detector file, or of a .json file."),
]
FoldsOption = Annotated[
    int | None,
    typer.Option("--folds", min=2, max=20, help="Number of cross-conformal folds; all images are used for training."),
]
CalibrationOption = Annotated[
    Literal["auto", "held-out", "leave-one-out"],
    typer.Option("--calibration", help="Calibrate on held-out images, or on all training images by leave-one-out."),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="FILE.onnx|timm:NAME",
        help="Your own network as the backbone, for RGB images normalized as for ImageNet.",
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", min=4, help="Longer side of the model's input in pixels; with tiles, of the whole image."),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        "--tile",
        metavar="auto|N|off",
        help="Score in overlapping tiles of N pixels, for small defects in large images.",
    ),
]
RoiOption = Annotated[
    str | None,
    typer.Option("--roi", help="Region of interest: a mask image, or left,top,right,bottom in 0..1."),
]


def fit(
    context: typer.Context,
    data: DataArgument,
    output: Annotated[Path, path_option("-o", "--output", help="Detector file to write, .safetensors.")],
    normal: NormalOption = None,
    data_dir: DataDirOption = None,
    detector: DetectorOption = None,
    backbone: BackboneOption = None,
    no_pretrained: NoPretrainedOption = False,
    light: LightOption = None,
    budget: BudgetOption = None,
    plan: PlanOption = None,
    device: DeviceOption = "auto",
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    group_by: GroupByOption = None,
    count_by: CountByOption = "group",
    calibration: CalibrationOption = "auto",
    folds: FoldsOption = None,
    epochs: EpochsOption = None,
    size: SizeOption = None,
    tile: TileOption = None,
    roi: RoiOption = None,
    skip_unreadable: SkipOption = False,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Train a detector on normal images, some of which are held out to calibrate its threshold."""
    with command(as_json, threads, skips=True) as console:
        from oddlens.config.base import DecisionSettings, TrainingSettings
        from oddlens.config.parse import duration, parse
        from oddlens.data.open import open_training_images
        from oddlens.detector.calibration import default_rate_cost
        from oddlens.detector.detector import Detector

        if output.suffix != ".safetensors":
            raise SettingsError(f"{output}: detector files end in .safetensors")
        check_output(output)
        training = parse(TrainingSettings, without_none({"epochs": epochs, "seed": seed}), "options")
        rates = without_none({"false_alarm_rate": false_alarm_rate, "confidence": confidence})
        decision = parse(DecisionSettings, rates, "options")
        settings, decision, size, side = resolve_model(detector, plan, folds, decision, size, parse_tile(tile), roi)
        settings = with_own_file(settings, plan, backbone)
        settings = with_backbone_options(settings, backbone, light, no_pretrained=no_pretrained)
        seconds = duration(budget) if budget else settings.default_budget
        images, problems = open_training_images(
            data,
            normal=normal,
            data_dir=data_dir,
            skip_unreadable=skip_unreadable,
            group_by=group_by,
            progress=console.downloading,
        )
        left_out = report_left_out(images.left_out, console)
        skipped = report_unreadable(problems, console)
        started = console.downloaded or console.started  # a download does not count
        left = None if seconds is None else max(1.0, seconds - (time.perf_counter() - started))
        new = Detector(
            settings, training=training, decision=decision, size=size, tile=side, roi=roi, device=device, budget=left
        )
        with working_folder(output, resume, console) as folder:
            new.fit(
                images,
                calibration=calibration_kind(calibration),
                count_by=count_by,
                folder=folder,
                resume=resume,
                progress=console.training,
                log=console.say_once,
                ranks=context.obj,
            )
            new.save(output)
        elapsed, used = (round(time.perf_counter() - start, 3) for start in (console.started, started))
        use = None if seconds is None else budget_use(new, seconds, used, waiting_seconds())
        files = {"files": {"detector": str(output)}, "skipped": skipped, "left_out": left_out}
        cost = default_rate_cost(new.manifest.data, new.decisions_)
        result = {
            "seconds": {"fit": elapsed},
            "budget": use,
            **files,
            **detector_summary(new),
            "default_rate_cost": cost,
        }
        console.result(result, [*describe_fit(new, output, elapsed, use, console.said), *([cost] if cost else [])])


def calibration_kind(option: str) -> Calibration:
    """The parameter of `Detector.fit` that an option of the command line means."""
    kinds: dict[str, Calibration] = {"held-out": "held_out", "leave-one-out": "leave_one_out"}
    return kinds.get(option, "auto")


@contextlib.contextmanager
def working_folder(output: Path, resume: bool, console: Console) -> Iterator[Path]:
    """The folder for the checkpoints of this run, or of the run that it resumes; removed once `output` is complete.

    After an error it stays if there is a checkpoint to resume from.
    """
    earlier = find_working_folders(output)
    if resume and not earlier:
        console.say(f"{output}: no interrupted run to resume; training from the start")
    elif earlier and not resume:
        console.say(f"{earlier[0]}: left by an interrupted run; starting over (--resume continues it)")
    folder = earlier[0] if resume and earlier else make_working_folder(output)
    console.can_resume = lambda: any(folder.rglob("epoch-*.safetensors"))
    with lock(folder) as is_free:
        if not is_free:
            raise SettingsError(f"{folder}: another run trains there; wait for it, or leave out --resume")
        try:
            yield folder
        except BaseException:
            if not console.can_resume():
                remove_working_folder(folder)
            raise
    remove_working_folder(folder)
    for path in find_working_folders(output):  # of runs that were interrupted before
        remove_working_folder(path)


def budget_use(detector: Detector, seconds: float, used: float, waited: float | None) -> dict[str, Any]:
    """What became of a budget, in JSON: the seconds, and how much of its plan each member trained."""
    members = [dataclasses.asdict(record) for record in detector.records_]
    rounded = None if waited is None else round(waited, 3)
    return {"seconds": seconds, "used": used, "waited": rounded, "members": members}


def describe_budget(use: dict[str, Any]) -> str:
    """What became of a budget, in a line."""
    line, shortened = f"budget: {use['used']:.0f} of {use['seconds']:.0f} s", defaultdict[str, list[float]](list)
    for member in use["members"]:
        if member["epochs"] < member["planned_epochs"]:
            shortened[f"{{}} of {member['planned_epochs']} of {member['title']}"].append(member["epochs"])
    if not shortened:
        return f"{line}; trained all that was planned"
    parts = (text.format(number_range(epochs)) for text, epochs in shortened.items())
    line += f"; epochs trained: {', '.join(parts)}"
    waited = use["waited"] or 0.0
    if waited > BUSY_SHARE * use["used"]:
        return f"{line}; waited {waited:.0f} s for other programs: on a quiet machine the same command trains more"
    return f"{line}; a longer --budget trains more"


def number_range(numbers: Sequence[float]) -> str:
    """The least and the largest of some numbers, or the only one.

    >>> number_range([3.25, 4.0, 3.5])
    '3.25 to 4'
    """
    texts = [f"{number:.3g}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(texts))


def describe_fit(
    detector: Detector, output: Path, seconds: float, use: dict[str, Any] | None, said: set[str]
) -> list[str]:
    """What was fitted, in lines, but for the remarks that were `said` before the training."""
    data = detector.manifest.data
    calibrated_on = f"{data.n_calibration} held-out images"
    if data.folds > 1:
        calibrated_on = f"the same images out of fold ({data.folds} folds)"
    elif data.calibration == "leave_one_out":
        calibrated_on = "the same images, each left out once"
    return [
        f"{output}: trained on {data.n_training} normal images in {seconds:.1f} s, calibrated on {calibrated_on}",
        *([] if use is None else [describe_budget(use)]),
        *(remark for remark in detector.manifest.remarks if remark not in said),
        *detector.decisions_.promises(),
    ]


def resolve_model(
    detector: str | None,
    plan: Path | None,
    folds: int | None,
    decision: DecisionSettings,
    size: int | None,
    tile: Tile | None,
    roi: str | None,
) -> tuple[DetectorSettings, DecisionSettings, int | None, Tile]:
    """Detector, decision, size and tile: as requested, or as in the detector file whose plan is repeated."""
    from oddlens.config.parse import parse_detector

    if plan is None:
        settings = parse_detector(detector or "auto") if folds is None else in_folds(detector, folds)
        return settings, decision, size, tile or "auto"
    if detector is not None:
        raise SettingsError(f"--plan {plan} says which detector to fit; leave out --detector {detector}")
    if folds is not None:
        raise SettingsError("--folds needs a single detector: name it with --detector")
    from oddlens.artifact import detector_file
    from oddlens.training.plan import load_plan

    model: DetectorSettings = load_plan(plan)
    if plan.suffix == ".json":
        return model, decision, size, tile or "auto"
    manifest, tensors = detector_file.load(plan)
    if detector_file.ROI in tensors and roi is None:
        raise SettingsError(f"--plan {plan}: was made with a region of interest; give the same --roi again")
    spec, tiling = manifest.input, manifest.tiling
    planned_tile: Tile = "off" if tiling is None else max(tiling.height, tiling.width)
    decision = decision if decision.model_fields_set else manifest.decision
    return model, decision, size or max(spec.height, spec.width), tile or planned_tile


def parse_tile(text: str | None) -> Tile | None:
    """The side of tiles in pixels, "auto" or "off"; None where nothing is requested.

    Raises:
        SettingsError: it is none of them.
    """
    from oddlens.training.tiling import check_tile

    tile: Any = int(text) if text is not None and text.isdecimal() else text
    if tile is not None:
        check_tile(tile)
    side: Tile | None = tile
    return side


def with_own_file(settings: DetectorSettings, plan: Path | None, backbone: str | None) -> DetectorSettings:
    """The settings of a plan with its own backbone, if it has one, by the name of a file that contains it.

    That file is `backbone` if it has the same network, or else that of the plan.
    """
    from oddlens.config.backbones import EFFICIENTNET_LITE0, is_backbone_name
    from oddlens.config.detectors import FamilySettings
    from oddlens.config.parse import with_file_of_own

    own = settings.own_backbone
    if own is None or plan is None or not isinstance(settings, FamilySettings):
        return settings
    if backbone is None:
        return with_file_of_own(settings, str(plan)) if plan.suffix == ".safetensors" else settings
    if backbone == EFFICIENTNET_LITE0 or not is_backbone_name(backbone):
        return settings
    from oddlens.training.own_backbone import read_own

    return with_file_of_own(settings, backbone) if read_own(backbone).graph.sha256 == own.sha256 else settings


def with_backbone_options(
    settings: DetectorSettings, backbone: str | None, light: str | None, *, no_pretrained: bool
) -> DetectorSettings:
    """The settings of a detector with what was requested of its backbone.

    Raises:
        SettingsError: the detector has no such choice.
    """
    from oddlens.config.parse import with_backbone, with_light

    if backbone is not None:
        if no_pretrained:
            raise SettingsError("--backbone and --no-pretrained contradict each other; leave one of them out")
        settings = with_backbone(settings, backbone, "--backbone")
    if no_pretrained and settings.uses_pretrained:
        raise SettingsError(f"--no-pretrained: {settings.title} compares pretrained features; choose another")
    if light is not None:
        settings = with_light(settings, light, "--light")
    if no_pretrained and "pretrained" in type(settings).model_fields:
        return settings.model_copy(update={"pretrained": False})
    return settings


def in_folds(family: str | None, folds: int) -> FamilySettings:
    """The settings of cross-conformal folds of a single family.

    Raises:
        SettingsError: no single family is named.
    """
    from oddlens.config.detectors import settings_class
    from oddlens.config.parse import parse_model

    named = settings_class(family)
    if family is None or (named is not None and named.is_composite):
        raise SettingsError("--folds needs a single detector: name it with --detector")
    return parse_model({"family": "crossfit", "model": {"family": family}, "folds": folds}, "--detector")

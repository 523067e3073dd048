"""Running a recipe: fit, calibrate, evaluate, figures and report, in one output folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oddlens.batch import verdict_files
from oddlens.config.detectors import settings_class
from oddlens.config.parse import parse
from oddlens.config.recipe import Recipe, load_recipe
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.open import NAME_PREFIX, describe_left_out, open_dataset
from oddlens.data.sources.download import DownloadProgress
from oddlens.data.splitting import split_groups
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError, SettingsError
from oddlens.evaluation import test_sets
from oddlens.evaluation.data_checks import check_for_report
from oddlens.evaluation.evaluate import Evaluation, evaluate, require_images
from oddlens.io.atomic import write_bytes
from oddlens.io.own_folder import HISTORY, TRAINING_FILES, check_claim, claim, lock, record
from oddlens.io.paths import check_outside_data, expand_home
from oddlens.reporting import evaluation_figures, evaluation_report

if TYPE_CHECKING:
    from oddlens.training.history import Progress

FOLDER = Path(__file__).parent
OUTPUTS = ("detector.safetensors", "verdicts.csv", "figures", "report.html", "metrics.json")
MAX_FOREIGN_IMAGES = 1000  # of another data set, added to the test images


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or a TOML file by path.

    Raises:
        SettingsError: there is no such recipe, or it has wrong settings.
    """
    if name.endswith(".toml"):
        return load_recipe(Path(expand_home(name)))
    if name not in recipe_names():
        raise SettingsError(
            f"'{name}' is not a recipe; built in are {', '.join(recipe_names())}, or give the path of a .toml file"
        )
    return load_recipe(FOLDER / f"{name}.toml")


def override(recipe: Recipe, *, epochs: int | None, seed: int | None, detector: str | None) -> Recipe:
    """The recipe with the options of the command line.

    Another family comes with its own training and decides by `conformal`: the percentile of training scores suits
    the reference recipes, but hardly any detector that compares with its training images.
    """
    values = recipe.model_dump(exclude_unset=True)
    if detector is not None and settings_class(detector) is not type(recipe.model):
        values["model"] = {"family": detector}
        values["training"] = {"seed": recipe.training.seed}
        values.pop("decision", None)
    changes = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    values["training"] = values.get("training", {}) | changes
    return parse(Recipe, values, recipe.name)


@dataclass
class RecipeRun:
    """One run of a recipe, with its output in a folder; `files` and `seconds` are filled as it goes."""

    recipe: Recipe
    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    command: str = ""  # that made the output, for the report
    progress: Progress | None = None
    download_progress: DownloadProgress | None = None
    log: Callable[[str], None] | None = None
    report: Path | None = None  # where the report goes, if not into the folder
    files: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, resume: bool = False) -> dict[str, Any]:
        """Run everything. Returns the metrics with `seconds` and `files`.

        Raises:
            OddlensError: something cannot be done.
        """
        settings = self.recipe.data
        check_outside_data(self.out, [settings.source])
        check_claim(self.out, [*TRAINING_FILES, *OUTPUTS])
        data = open_dataset(
            settings.source, normal=settings.normal, data_dir=self.data_dir, progress=self.download_progress
        )
        for line in describe_left_out(data.left_out):
            self.say(line)
        require_images(data.test)  # before training
        self.out.mkdir(parents=True, exist_ok=True)
        with lock(self.out) as is_free:
            if not is_free:
                raise SettingsError(f"{self.out}: another run is writing there; wait for it, or choose another")
            return self.run(data, resume)

    def run(self, data: DataSet, resume: bool) -> dict[str, Any]:
        """Everything from training to the report. Returns the metrics with `seconds` and `files`."""
        foreign = self.load_foreign()
        detector, history = self.fit(data, resume)
        evaluation = self.evaluate(detector, data, foreign)
        masks, lot = evaluation.masks.with_unmatched(data.unused_masks), evaluation.lot
        for line in [*masks.lines(), *evaluation.guarantee_warnings]:
            self.say(line)
        guarantee = " ".join(detector.decisions_.promises())
        result = {"recipe": self.recipe.name, **evaluation.metrics, **masks.as_json, "promise": guarantee}
        result["left_out"] = {reason: list(paths) for reason, paths in data.left_out.items()}
        result |= {"lot": None if lot is None else lot.as_json(), "alarms_p_value": evaluation.alarms_p_value}
        self.present(data, detector, evaluation, history)
        result |= {"seconds": self.seconds, "files": self.files}
        content = json.dumps(result, indent=2, allow_nan=False).encode()
        self.add_file("metrics", write_bytes(self.own("metrics.json"), content))
        return result

    def fit(self, data: DataSet, resume: bool) -> tuple[Detector, list[dict[str, float]]]:
        """Train, calibrate and save the detector. Returns it with its training history."""
        recipe = self.recipe
        detector = Detector(
            recipe.model,
            training=recipe.training,
            decision=recipe.decision,
            size=recipe.data.size,
            tile=recipe.data.tile,
            device=self.device,
        )
        hold_out = recipe.data.calibration == "split"
        detector.fit(
            data.train, hold_out=hold_out, folder=self.out, resume=resume, progress=self.progress, log=self.log
        )
        if recipe.data.calibration == "test_half":
            half = half_of_test_normals(data.test, detector, recipe.training.seed)
            detector.calibrate(half, source="half of the test normals")
        self.seconds |= detector.seconds_
        self.add_file("detector", detector.save(self.own("detector.safetensors")))
        if (self.out / HISTORY).exists():
            self.add_file("history", self.out / HISTORY)
        return detector, detector.history_

    def evaluate(self, detector: Detector, data: DataSet, foreign: Pixels | None) -> Evaluation:
        """Score the test set and write its verdicts."""
        recipe = self.recipe
        test = test_sets.build_test_set(data, detector.spec, recipe.training.seed, recipe.data.distort, foreign)
        started = time.perf_counter()
        evaluation = evaluate(detector, test)
        self.seconds["score"] = round(time.perf_counter() - started, 3)
        verdicts = detector.predict_from_scores(evaluation.images.names, evaluation.scores)
        with verdict_files.open_verdict_file(self.own("verdicts.csv")) as write:
            write(verdict_files.verdict_rows(verdicts))
        self.add_file("verdicts", self.out / "verdicts.csv")
        return evaluation

    def load_foreign(self) -> Pixels | None:
        """Images of the recipe's foreign data set; None, with a note, where they are not on this machine."""
        name = self.recipe.data.foreign
        if name is None:
            return None
        try:
            test = open_dataset(name, data_dir=self.data_dir, download=False).test
            order = np.random.default_rng(self.recipe.training.seed).permutation(len(test))[:MAX_FOREIGN_IMAGES]
            return test.subset(np.sort(order)).load(test.choose_spec(None))
        except DataNotFoundError as error:
            self.say(f"left out the images of {name.removeprefix(NAME_PREFIX)}: {error}")
            return None

    def say(self, text: str) -> None:
        """Report a note to whoever started the run."""
        if self.log:
            self.log(text)

    def present(
        self, data: DataSet, detector: Detector, evaluation: Evaluation, history: list[dict[str, float]]
    ) -> None:
        """Draw the figures and write the report."""
        images = evaluation_figures.draw_figures(detector, evaluation, history)
        folder = self.own("figures")
        paths = {name: write_bytes(folder / f"{name}.png", image) for name, image in images.items()}
        self.files["figures"] = {name: str(path) for name, path in paths.items()}
        record(self.out, ["figures"])
        own_report = self.out / "report.html"
        report = self.report or own_report
        is_inside = report.resolve() == own_report.resolve()
        if is_inside:
            report = self.own("report.html")
        evaluation_report.write_evaluation_report(
            report,
            self.recipe.title or self.recipe.name,
            detector,
            evaluation,
            self.command,
            detector_path=self.files["detector"],
            history=history,
            diagnosis=check_for_report(data, detector.decisions_.false_alarm_rate),
        )
        self.files["report"] = str(report)
        if is_inside:
            record(self.out, [report.name])

    def own(self, name: str) -> Path:
        """The path of an output, which is oddlens's own from now on."""
        claim(self.out, [name])
        return self.out / name

    def add_file(self, name: str, path: Path) -> None:
        """Add an output file to `files`, and note that it is oddlens's own."""
        self.files[name] = str(path)
        record(self.out, [path.name])


def half_of_test_normals(test: ImageSet, detector: Detector, seed: int) -> ImageSet:
    """A random half of the normal test images; near-duplicates stay together."""
    normal = np.flatnonzero(test.labels == 0)
    if len(normal) < 2:
        raise DataError("the test set has fewer than 2 normal images, too few to calibrate on half of them")
    pixels = test.subset(normal).load(detector.spec)
    half = len(normal) // 2
    index, _ = split_groups(near_duplicate_groups(thumbnails(pixels)), [half, len(normal) - half], seed)
    return test.subset(normal[index])

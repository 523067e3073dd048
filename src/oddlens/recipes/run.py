"""Whole runs: a recipe's data, fit, calibration, evaluation, pictures and report, in one folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oddlens.batch import verdict_files
from oddlens.config.parse import parse
from oddlens.config.recipe import Recipe, load_recipe
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.open import open_dataset
from oddlens.data.splitting import split_groups
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError, SettingsError
from oddlens.evaluation import test_sets
from oddlens.evaluation.evaluate import Evaluation, evaluate
from oddlens.io.atomic import write_bytes
from oddlens.reporting import evaluation_report

if TYPE_CHECKING:
    from oddlens.training.history import Progress

FOLDER = Path(__file__).parent
MAX_FOREIGN_IMAGES = 1000  # pictures of another data set that are shown


def recipe_names() -> list[str]:
    """The built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or a TOML file by path.

    Raises:
        SettingsError: there is no such recipe, or it has wrong settings.
    """
    if name.endswith(".toml"):
        return load_recipe(Path(name))
    if name not in recipe_names():
        raise SettingsError(
            f"'{name}' is not a recipe; built in are {', '.join(recipe_names())}, or give the path of a .toml file"
        )
    return load_recipe(FOLDER / f"{name}.toml")


def override(recipe: Recipe, *, epochs: int | None, seed: int | None, detector: str | None) -> Recipe:
    """The recipe with what the command line overrides; another family comes with its own training, and decides by
    `conformal`: the percentile of training scores suits the seeds, and hardly any detector that keeps its neighbours.
    """
    values = recipe.model_dump(exclude_unset=True)
    if detector is not None and detector != recipe.model.family:
        values["model"] = {"family": detector}
        values["training"] = {"seed": recipe.training.seed}
        values.pop("decision", None)
    asked = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    values["training"] = values.get("training", {}) | asked
    return parse(Recipe, values, recipe.name)


@dataclass
class RecipeRun:
    """A recipe at work in a folder; `files` and `seconds` fill as it goes."""

    recipe: Recipe
    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    progress: Progress | None = None
    say: Any = print
    command: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, resume: bool = False) -> dict[str, Any]:
        """Do everything; gives the metrics with `seconds` and `files`.

        Raises:
            OddlensError: something in the way of it, in one line.
        """
        data = open_dataset(self.recipe.data.source, normal=self.recipe.data.normal, data_dir=self.data_dir)
        foreign = self.foreign()
        detector, history = self.fit(data, resume)
        found = self.evaluate(detector, data, foreign)
        result = {"recipe": self.recipe.name, **found.metrics, "promise": " ".join(detector.decisions_.promises())}
        self.present(detector, found, history)
        result |= {"seconds": self.seconds, "files": self.files}
        self.keep(
            "metrics", write_bytes(self.out / "metrics.json", json.dumps(result, indent=2, allow_nan=False).encode())
        )
        return result

    def fit(self, data: DataSet, resume: bool) -> tuple[Detector, list[dict[str, float]]]:
        """Train and calibrate, and save the detector."""
        recipe = self.recipe
        detector = Detector(
            recipe.model, training=recipe.training, decision=recipe.decision, size=recipe.data.size, device=self.device
        )
        detector.fit(
            data.train,
            hold_out=recipe.data.calibration == "split",
            source=data.name,
            normal=data.normal,
            folder=self.out,
            resume=resume,
            progress=self.progress,
        )
        if recipe.data.calibration == "test_half":
            detector.calibrate(
                half_of_test_normals(data.test, detector, recipe.training.seed), source="half of the test normals"
            )
        self.seconds |= detector.seconds_
        self.keep("detector", detector.save(self.out / "detector.safetensors"))
        if (self.out / "history.jsonl").exists():
            self.keep("history", self.out / "history.jsonl")
        return detector, detector.history_

    def evaluate(self, detector: Detector, data: DataSet, foreign: Pixels | None) -> Evaluation:
        """Score the test set, and write its verdicts."""
        recipe = self.recipe
        test = test_sets.labelled_images(data, detector.spec, recipe.training.seed, recipe.data.distort, foreign)
        started = time.perf_counter()
        found = evaluate(detector, test)
        self.seconds["score"] = round(time.perf_counter() - started, 3)
        judged = detector.predict_from_scores(found.images.names, found.scores)
        with verdict_files.open_verdict_file(self.out / "verdicts.csv") as write:
            write(verdict_files.verdict_rows(judged))
        self.keep("verdicts", self.out / "verdicts.csv")
        return found

    def foreign(self) -> Pixels | None:
        """Pictures of the recipe's foreign data set; None, and a word about it, where they are not here."""
        name = self.recipe.data.foreign
        if name is None:
            return None
        try:
            test = open_dataset(name, data_dir=self.data_dir, download=False).test
            chosen = np.random.default_rng(self.recipe.training.seed).permutation(len(test))[:MAX_FOREIGN_IMAGES]
            return test.subset(np.sort(chosen)).load(test.choose_spec(None))
        except DataNotFoundError as error:
            self.say(f"left out the pictures of {name}: {error}")
            return None

    def present(self, detector: Detector, found: Evaluation, history: list[dict[str, float]]) -> None:
        """Draw the pictures and write the report."""
        pictures = evaluation_report.draw_figures(detector, found, self.out / "figures", history)
        self.files["figures"] = {name: str(path) for name, path in pictures.items()}
        title = self.recipe.title or self.recipe.name
        self.keep(
            "report",
            evaluation_report.write_evaluation_report(
                self.out / "report.html", title, detector, found, pictures, self.command
            ),
        )

    def keep(self, name: str, path: Path) -> None:
        """Remember a file that was made."""
        self.files[name] = str(path)


def half_of_test_normals(test: ImageSet, detector: Detector, seed: int) -> ImageSet:
    """A seeded half of the test normals; near-duplicates stay together."""
    normal = np.flatnonzero(test.labels == 0)
    if len(normal) < 2:
        raise DataError("the test set has fewer than 2 normal images, so that no half of them can calibrate")
    pixels = test.subset(normal).load(detector.spec)
    half = len(normal) // 2
    chosen, _ = split_groups(near_duplicate_groups(thumbnails(pixels)), [half, len(normal) - half], seed)
    return test.subset(normal[chosen])

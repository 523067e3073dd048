"""Detector: fit on normal images, calibrate, score new ones, save and load."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from oddlens import artifact
from oddlens.artifact import DataSummary, Manifest
from oddlens.backends import Backend, Outputs
from oddlens.calibration import Decision, promised_rank
from oddlens.config import (
    TRAINING,
    AutoSettings,
    DecisionSettings,
    EnsembleSettings,
    InputSpec,
    ModelSettings,
    TrainingSettings,
    parse_model,
)
from oddlens.datasets import ImageSet
from oddlens.errors import CalibrationError, DataError, MissingExtraError, SettingsError, StateError
from oddlens.images import Pixels, read_roi
from oddlens.normals import Images, as_image_set, describe, normal_images, split_normals
from oddlens.scoring import anomaly_scores, batch_size, fingerprints, golden_pixels, in_batches, score_batches

if TYPE_CHECKING:
    from oddlens.models import Model
    from oddlens.train import Progress, Row

Scores = npt.NDArray[np.float64]

AUTO_SIDE = 192  # longer side that `auto` gives pictures at most: small defects need more than the usual 128
BUDGET = 300.0  # seconds that `auto` takes at most unless told otherwise
CALIBRATION = ("calibration.scores", "calibration.map_peaks", "calibration.fingerprints")
TRAINING_SCORED = 500  # training images at most that are scored where scoring one is not nearly free


@dataclass(frozen=True)
class Verdicts:
    """What a detector decided about N images, in the order in which they were given."""

    files: tuple[str, ...]
    anomaly_score: Scores  # (N,) higher is more anomalous
    p_value: Scores  # (N,) share of normal images expected to score at least as high; nan if not calibrated
    threshold: float
    label: npt.NDArray[np.int8]  # (N,) 1 where the score is above the threshold

    @property
    def verdict(self) -> list[str]:
        """One an image: "anomaly" or "normal"."""
        return ["anomaly" if label else "normal" for label in self.label]

    def __len__(self) -> int:
        return len(self.files)


class Detector:
    """An anomaly detector for images.

    Parameters are only stored; `fit` learns from normal images and holds some of them out to
    calibrate, after which `predict` keeps to the false-alarm rate that was chosen.

    Parameters:
        model: "auto", a family's name, or a family's settings. `auto` chooses and trains an ensemble for the images.
        training: epochs, batch size, learning rate, precision, seed; what is not set is as usual for the family.
        decision: how a score becomes a verdict; its `false_alarm_rate` is the promise.
        size: longer side of the pictures as the model sees them; None keeps small ones as they are and takes at
            most 128 otherwise, 192 for `auto`.
        roi: region of interest outside which nothing counts: the path of a mask image, or
            "left,top,right,bottom" as fractions of the picture.
        device: "auto", "cpu" or "cuda".
        budget: seconds that fitting and calibrating may take together; 300 for `auto` without it, no limit otherwise.

    Example:
        >>> import numpy as np
        >>> from oddlens import Detector, TrainingSettings
        >>> rng = np.random.default_rng(0)
        >>> normal = rng.integers(100, 120, (60, 16, 16), dtype=np.uint8)
        >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(normal)
        >>> odd = np.full((1, 16, 16), 250, dtype=np.uint8)
        >>> detector.predict(odd).verdict
        ['anomaly']
    """

    def __init__(
        self,
        model: str | ModelSettings | AutoSettings = "auto",
        *,
        training: TrainingSettings | None = None,
        decision: DecisionSettings | None = None,
        size: int | None = None,
        roi: str | None = None,
        device: str = "auto",
        budget: float | None = None,
    ) -> None:
        self.model = model
        self.training = training
        self.decision = decision
        self.size = size
        self.roi = roi
        self.device = device
        self.budget = budget
        self.loaded = False
        self.exported: Path | None = None  # the .onnx file that it was loaded from

    # -- learning ---------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        *,
        hold_out: bool = True,
        source: str = "",
        normal: str = "good",
        folder: Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> Detector:
        """Learn from normal images, and calibrate on a held-out part of them.

        Parameters:
            images: an array (N, H, W[, C]), an `ImageSet`, a list of files, or what `open_dataset` opens (of a
                folder with `train/` and `test/` only the normal training images are taken).
            hold_out: False trains on all images; `calibrate` must then be called with others.
            source, normal: what the manifest says of the images' origin, and of what is normal.
            folder: where training keeps its history and checkpoints; None keeps none.
            resume: go on after the newest checkpoint in `folder`.
            progress: called with a `Step` now and then.

        Raises:
            DataError: the images are not usable.
            CalibrationError: the held-out images cannot promise the asked rate (found before training).
            TrainingError: training broke down.
        """
        try:
            from oddlens.auto import RESERVE, SAVING, Task, fitted
            from oddlens.backends.torch import TorchBackend, resolve_device
            from oddlens.models.base import leaving_itself_out
        except ModuleNotFoundError as error:
            raise MissingExtraError("fitting a detector", "train") from error
        if self.loaded:
            raise StateError("this detector was loaded from a file; make a new Detector to fit")
        started = time.perf_counter()
        wanted, decision = self._wanted(), self.decision or DecisionSettings()
        training, device = self._training(wanted), resolve_device(self.device)
        combined = wanted is None or isinstance(wanted, EnsembleSettings)
        known = normal_images(images)
        spec = chosen_spec(known, self.size, AUTO_SIDE if combined else None)
        if len(known) < 2:
            raise DataError(
                f"{len(known)} normal image(s) found; fitting needs at least 2, and about 200 to promise 1%"
            )
        pixels = known.load(spec)
        roi = read_roi(self.roi, spec) if self.roi else None
        learn, standard, hold = np.arange(len(pixels)), np.arange(0), np.arange(0)
        if hold_out or combined:
            learn, standard, hold = split_normals(
                pixels, decision, training.seed, hold_out=hold_out, standardise=combined
            )
        scored = learn[:: max(1, -(-len(learn) // TRAINING_SCORED))] if combined else learn
        task = Task(
            pixels[learn], pixels[standard], spec, roi, device, training.seed,
            to_score=len(scored) + len(hold), deadline=started + self._budget(wanted) * (1 - RESERVE) - SAVING,
            folder=folder, resume=resume, progress=progress,
        )  # fmt: skip
        found = fitted(wanted, training, task, pixels[hold])
        self.backend_: Backend = TorchBackend(found.model, device)
        self._roi = roi
        learned = np.sort(fingerprints(np.concatenate([task.learn, task.standard])))
        with leaving_itself_out(found.model):
            seen = anomaly_scores(self.backend_, in_batches(pixels[scored], batch_size(spec)))
        self._statistics: artifact.Tensors = {
            "training.scores": np.sort(seen),
            "training.fingerprints": learned,
        }
        self._manifest = Manifest(
            model=found.settings,
            training=training,
            input=spec,
            decision=decision,
            data=DataSummary(
                source=source or describe(images),
                normal=normal,
                n_training=len(learn),
                n_standardising=len(standard),
                fingerprint=hashlib.blake2b(learned.tobytes(), digest_size=16).hexdigest(),
            ),
            history=summary(found.history),
            remarks=found.remarks,
            versions=versions(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            golden=tuple(anomaly_scores(self.backend_, [golden_pixels(spec)]).tolist()),
        )
        self.history_ = found.history
        self.seconds_ = {"fit": round(time.perf_counter() - started, 3)}
        return self._calibrate(pixels[hold], decision, "held out of the training images")

    def calibrate(
        self, images: Images, *, decision: DecisionSettings | None = None, source: str = "", add: bool = False
    ) -> Detector:
        """Make the decision anew from normal images that the detector was not trained on.

        With `add`, they join the calibration images that it has; those that are among them already count once.

        Raises:
            StateError: the detector is not fitted.
            DataError: the images are not usable, or the detector was trained on some of them.
            CalibrationError: they cannot promise the asked rate.
        """
        backend, known = self._fitted(), normal_images(images)
        pixels = known.load(backend.spec)
        seen = np.isin(fingerprints(pixels), self._statistics["training.fingerprints"])
        if seen.any():
            first = known.names[int(seen.argmax())]
            raise DataError(
                f"{int(seen.sum())} of {len(seen)} calibration images were trained on, {first} first, so that "
                "their scores say nothing about new ones; give images that the detector has not seen"
            )
        if add:
            pixels = pixels[~np.isin(fingerprints(pixels), self._statistics["calibration.fingerprints"])]
        return self._calibrate(pixels, decision or self.decision_.settings, source or describe(images), add)

    def decide(self, decision: DecisionSettings) -> Detector:
        """Change the decision and nothing else: no score moves.

        Raises:
            StateError: the detector is not fitted, or lacks the scores that the decision is made from.
            CalibrationError: its calibration images cannot promise the asked rate; the decision stays as it was.
        """
        self._fitted()
        made = Decision(decision, self._statistics["calibration.scores"], self._statistics["training.scores"])
        made.threshold  # noqa: B018 - refused before anything changes
        self.decision_, self._manifest = made, self._manifest.model_copy(update={"decision": decision})
        return self

    def _calibrate(self, pixels: Pixels, decision: DecisionSettings, source: str, add: bool = False) -> Detector:
        started = time.perf_counter()
        before = {name: self._statistics[name] if add else np.empty(0) for name in CALIBRATION}
        scores, peaks = [before["calibration.scores"]], [before["calibration.map_peaks"]]
        prints = [before["calibration.fingerprints"].astype(np.uint64), fingerprints(pixels)]
        for outputs in score_batches(self._fitted(), in_batches(pixels, batch_size(self.spec))):
            scores.append(outputs.anomaly_score)
            if outputs.anomaly_map is not None:
                peaks.append(outputs.anomaly_map.max(axis=(1, 2)).astype(np.float64))
        statistics: artifact.Tensors = {
            **self._statistics,
            "calibration.scores": np.sort(np.concatenate(scores)),
            "calibration.map_peaks": np.sort(np.concatenate(peaks)),
            "calibration.fingerprints": np.sort(np.concatenate(prints)),
        }
        made = Decision(decision, statistics["calibration.scores"], statistics["training.scores"])
        count = len(statistics["calibration.scores"])
        if count:
            made.threshold  # noqa: B018 - a promise that cannot be kept is refused before anything changes
        data = self._manifest.data.model_copy(update={"n_calibration": count, "calibration_source": source})
        self._manifest = self._manifest.model_copy(update={"data": data, "decision": decision})
        self.decision_, self._statistics = made, statistics
        self.seconds_ = {**getattr(self, "seconds_", {}), "calibrate": round(time.perf_counter() - started, 3)}
        return self

    # -- scoring ----------------------------------------------------------------------------------

    def run(self, images: Images, batch: int | None = None) -> Iterator[Outputs]:
        """Scores, maps and reconstructions, a batch at a time, in order; constant memory."""
        backend = self._fitted()
        return score_batches(backend, as_image_set(images).batches(backend.spec, batch or batch_size(backend.spec)))

    def score(self, images: Images) -> Scores:
        """Anomaly scores (N,): raw, higher is more anomalous.

        Raises:
            StateError: the detector is not fitted.
            DataError: an image cannot be read.
        """
        backend = self._fitted()
        return anomaly_scores(backend, as_image_set(images).batches(backend.spec, batch_size(backend.spec)))

    def predict(self, images: Images) -> Verdicts:
        """Scores, p-values and verdicts.

        Raises:
            StateError: the detector is not fitted, or not calibrated and decides by `conformal`.
            DataError: an image cannot be read.
        """
        known = as_image_set(images)
        return self.judge(known.names, self.score(known))

    def judge(self, names: Sequence[str], scores: Scores, fdr: float | None = None) -> Verdicts:
        """Verdicts on scores (N,) that were computed before.

        With a false discovery rate `fdr`, the threshold is such that, of all N images that it flags, at most that
        share is normal on average; it is infinite where none is flagged.

        Raises:
            StateError: the detector is not calibrated.
        """
        self._fitted()
        decision = self.decision_
        threshold = decision.threshold if fdr is None else decision.discovery_threshold(scores, fdr)
        labels = (scores > threshold).astype(np.int8)
        return Verdicts(tuple(names), scores, decision.p_values(scores), threshold, labels)

    @property
    def backend(self) -> Backend:
        """The runtime that holds the scoring graph."""
        return self._fitted()

    @property
    def spec(self) -> InputSpec:
        """The pixels that this detector takes."""
        return self._fitted().spec

    def seen(self, part: Literal["training", "calibration"]) -> npt.NDArray[np.uint64]:
        """Fingerprints of the images that the detector was trained or calibrated on."""
        return self._statistics[f"{part}.fingerprints"]

    @property
    def region(self) -> npt.NDArray[np.bool_]:
        """(H, W): where an image counts."""
        return np.ones((self.spec.height, self.spec.width), dtype=bool) if self._roi is None else self._roi

    @property
    def map_level(self) -> float | None:
        """What a map's largest value stays at or below for normal images, all but the false-alarm rate of them.

        Where that rate cannot be promised, the largest value of all calibration images; None without maps.
        """
        peaks, decision = self._statistics["calibration.map_peaks"], self.decision_
        if not len(peaks):
            return None
        try:
            rank = promised_rank(len(peaks), decision.false_alarm_rate, decision.settings.confidence)
        except (CalibrationError, StateError):
            rank = len(peaks)
        return float(peaks[rank - 1]) if peaks[rank - 1] > 0 else None

    # -- files ------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What this detector is, what it promises, what it was made from."""
        self._fitted()
        return self._manifest

    @property
    def tensors(self) -> artifact.Tensors:
        """Everything else that a detector file holds: statistics, region of interest, weights where there are any."""
        roi = {} if self._roi is None else {artifact.ROI: self._roi.astype(np.uint8)}
        network = self.network
        weights = {} if network is None else network.state_dict()
        return {
            **self._statistics,
            **roi,
            **{f"model.{name}": np.ascontiguousarray(value.cpu().numpy()) for name, value in weights.items()},
        }

    @property
    def network(self) -> Model | None:
        """The torch model behind this detector; None when it runs from an exported file."""
        return getattr(self._fitted(), "model", None)

    def save(self, path: str | Path) -> Path:
        """Write a detector file; an older one is replaced in one step or not at all.

        A detector that was loaded from an `.onnx` file is written as one again, with its graph as it was.

        Raises:
            StateError: the detector is not fitted.
            SettingsError: the name does not end in .safetensors (in .onnx, where it was loaded from such a file).
            OddlensError: the file cannot be written.
        """
        path = Path(path)
        self._fitted()
        if self.exported is not None:
            if path.suffix != ".onnx":
                raise SettingsError(
                    f"{path}: this detector was loaded from {self.exported}, whose graph can only be saved as .onnx"
                )
            return artifact.save_onnx(path, self.exported, self.manifest, self.tensors)
        if path.suffix != ".safetensors":
            raise SettingsError(
                f"{path}: detector files end in .safetensors (to deploy as .onnx, use `oddlens export`)"
            )
        return artifact.save(path, self.manifest, self.tensors)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Detector:
        """Read a detector file (`.safetensors`, or `.onnx` without torch), and prove that it scores as it did.

        Raises:
            DataNotFoundError: there is no such file.
            ArtifactError: it is damaged, foreign, or gives other scores than when it was written.
        """
        path = Path(path)
        backend, manifest, tensors = artifact.open_backend(path, device)
        detector = cls(manifest.model, training=manifest.training, decision=manifest.decision, device=device)
        detector.backend_, detector.loaded = backend, True
        detector.exported = path if path.suffix == ".onnx" else None
        detector._roi = tensors[artifact.ROI].astype(bool) if artifact.ROI in tensors else None
        detector._statistics = artifact.statistics(tensors)
        detector._manifest = manifest
        detector.decision_ = Decision(manifest.decision, tensors["calibration.scores"], tensors["training.scores"])
        return detector

    # -- inside -----------------------------------------------------------------------------------

    def _fitted(self) -> Backend:
        backend: Backend | None = getattr(self, "backend_", None)
        if backend is None:
            raise StateError("this detector is not fitted; call fit(images) first, or Detector.load(path)")
        return backend

    def _wanted(self) -> ModelSettings | None:
        """The settings of the model to make; None where `auto` chooses them."""
        if self.model == "auto" or isinstance(self.model, AutoSettings):
            return None
        if self.model == "ensemble":
            raise SettingsError("an ensemble needs members: take auto, which chooses them, or give a plan (--plan)")
        return parse_model({"family": self.model}, "--detector") if isinstance(self.model, str) else self.model

    def _budget(self, wanted: ModelSettings | None) -> float:
        """Seconds that fitting may take."""
        if self.budget is None:
            return BUDGET if wanted is None else math.inf
        if self.budget <= 0:
            raise SettingsError(f"the budget of {self.budget:g} s leaves no time to fit; give at least some seconds")
        if isinstance(wanted, EnsembleSettings):
            raise SettingsError("a plan is trained as it says and takes no budget; leave one of the two out")
        return self.budget

    def _training(self, wanted: ModelSettings | None) -> TrainingSettings:
        """The family's usual training, changed by what was set."""
        usual = TRAINING["ensemble" if wanted is None else wanted.family]
        asked = self.training or usual
        changes = {name: getattr(asked, name) for name in asked.model_fields_set}
        if isinstance(wanted, EnsembleSettings):  # a plan is repeated with its own seed
            changes.setdefault("seed", wanted.members[0].training.seed)
        family, others = "auto" if wanted is None else wanted.family, sorted(changes.keys() - {"seed"})
        if family in ("auto", "ensemble") and others:
            raise SettingsError(
                f"{', '.join(others)} cannot be set for auto and ensembles, whose members train each in its own way; "
                "set the budget, or choose a single detector"
            )
        if family == "dictionary" and others:
            raise SettingsError(f"{', '.join(others)} cannot be set for the dictionary, which is learned in one step")
        if family == "autoencoder" and changes.get("optimizer") == "muon":
            raise SettingsError("muon is for networks with normalisation; the autoencoder has none: use adam")
        return usual.model_copy(update=changes)


def chosen_spec(images: ImageSet, size: int | None, largest: int | None) -> InputSpec:
    """The pixels that a detector of these images takes: of the asked size, or as usual, or up to `largest`."""
    spec = images.choose_spec(size)
    if size is not None or largest is None or max(spec.height, spec.width) < 128:
        return spec
    found = max(max(info.height, info.width) for info in images.infos())
    return images.choose_spec(min(largest, found // 8 * 8))


def summary(history: Sequence[Row]) -> dict[str, float]:
    """The training history in four numbers; empty for what does not train by gradients."""
    if not history:
        return {}
    return {
        "epochs": float(len(history)),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        "seconds": round(sum(row["seconds"] for row in history), 3),
    }


def versions() -> dict[str, str]:
    """What made this detector."""
    packages = {name: importlib.metadata.version(name) for name in ("oddlens", "numpy", "pillow", "torch")}
    return {"python": platform.python_version(), **packages}

"""Detector: fit on normal images, calibrate, score new ones, save and load."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from oddlens.artifact import detector_file, loading, onnx_file
from oddlens.config.base import DecisionSettings, InputSpec, RuntimeSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, AutoSettings, CrossfitSettings, ModelSettings
from oddlens.config.manifest import Manifest
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import DEFAULT_RATE, Scores, threshold_rank
from oddlens.data.open import Images, as_image_set, describe, normal_images
from oddlens.data.splitting import CalibrationSet
from oddlens.detector import calibration
from oddlens.errors import CalibrationError, MissingExtraError, SettingsError, StateError
from oddlens.inference import golden
from oddlens.inference.backend import Backend, Predictions
from oddlens.inference.open import open_graph
from oddlens.inference.scoring import anomaly_scores, batch_size, score_batches

if TYPE_CHECKING:
    from oddlens.models.base import Model
    from oddlens.training.history import Progress
from oddlens.detector.verdicts import Verdicts


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
        self.graph: bytes | None = None  # of the .onnx file that it was loaded from

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
        if self.model == "autoencoder" or isinstance(self.model, AutoencoderSettings):
            from oddlens import kernels

            kernels.build_in_background()  # while PyTorch is being imported
        try:
            from oddlens.training import fit
        except ModuleNotFoundError as error:
            raise MissingExtraError("fitting a detector", "train") from error
        if self.loaded:
            raise StateError("this detector was loaded from a file; make a new Detector to fit")
        known = normal_images(images)
        asked = fit.FitConfig(
            model=self.model,
            training=self.training,
            decision=self.decision or DecisionSettings(),
            size=self.size,
            roi=self.roi,
            device=self.device,
            budget=self.budget,
            hold_out=hold_out,
        )
        made = fit.fit(asked, known, folder, resume, progress)
        origin = {"source": source or describe(images), "normal": normal}
        data = made.manifest.data.model_copy(update=origin)
        self._manifest = made.manifest.model_copy(update={"data": data})
        self.backend_: Backend = made.backend
        self._roi, self._statistics = made.roi, made.statistics
        self.history_, self.seconds_ = made.history, {"fit": made.seconds}
        if made.held_out is not None:
            return self._calibrate(made.held_out, asked.decision, "held out of the training images")
        assert isinstance(made.manifest.model, CrossfitSettings)  # noqa: S101 - the only one that comes calibrated
        folds = made.manifest.model.folds
        source = f"out of fold, {folds} folds"
        return self._decide(made.statistics, asked.decision, {"calibration_source": source, "folds": folds})

    def calibrate(
        self,
        images: Images,
        *,
        decision: DecisionSettings | None = None,
        source: str = "",
        add: bool = False,
        runtime: RuntimeSettings | None = None,
    ) -> Detector:
        """Make the decision anew from normal images that the detector was not trained on.

        With `add`, they join the calibration images that it has; those that are among them already count once. Images
        of an `ImageSet` with groups (`datasets.grouped`) give each group a decision of its own. With another
        `runtime`, the detector scores in that one from now on, and forgets what its training images scored before.

        Raises:
            StateError: the detector is not fitted, or old scores would be mixed with those of another runtime.
            DataError: the images are not usable, or the detector was trained on some of them.
            CalibrationError: they cannot promise the asked rate.
            SettingsError: the runtime does not run this kind of file.
            MissingExtraError: the runtime is not installed.
        """
        backend, known, detector = self._fitted(), normal_images(images), self
        if runtime is not None and runtime != self._manifest.runtime:
            if add:
                raise StateError(
                    "scores of another runtime or precision cannot join those that the detector is calibrated by; "
                    "calibrate anew, on new normal images alone"
                )
            detector = self._running(runtime)
        calibration.check_mixing(self._manifest.data, known, add)
        held_out = calibration.calibration_set(known, backend.spec, self._statistics, add)
        detector._calibrate(held_out, decision or self.decisions_.settings, source or describe(images), add)
        vars(self).update(vars(detector))  # nothing changes before all is well
        return self

    def set_decision(self, decision: DecisionSettings) -> Detector:
        """Change the decision and nothing else: no score moves.

        Raises:
            StateError: the detector is not fitted, or lacks the scores that the decision is made from.
            CalibrationError: its calibration images cannot promise the asked rate; the decision stays as it was.
        """
        self._fitted()
        made = calibration.build_decision(decision, self._statistics, self._manifest.data)
        made.check()  # before anything changes
        self.decisions_, self._manifest = made, self._manifest.model_copy(update={"decision": decision})
        return self

    def _calibrate(
        self, held_out: CalibrationSet, decision: DecisionSettings, source: str, add: bool = False
    ) -> Detector:
        started = time.perf_counter()
        known = self._manifest.data.groups if add else ()
        names = tuple(dict.fromkeys([*known, *sorted(set(held_out.groups))]))
        statistics = calibration.calibration_statistics(self._fitted(), held_out, self._statistics, names, add)
        self.seconds_ = {**getattr(self, "seconds_", {}), "calibrate": round(time.perf_counter() - started, 3)}
        groups = {"groups": names, "grouped_by": held_out.grouped_by}
        return self._decide(statistics, decision, {"calibration_source": source, "folds": 1, **groups})

    def _decide(
        self, statistics: detector_file.Tensors, decision: DecisionSettings, about: dict[str, object]
    ) -> Detector:
        """Take these statistics for the decision; a promise that cannot be kept is refused before anything changes."""
        count = len(statistics["calibration.scores"])
        data = self._manifest.data.model_copy(update={"n_calibration": count, **about})
        made = calibration.build_decision(decision, statistics, data)
        if count:
            made.check()
        self._manifest = self._manifest.model_copy(update={"data": data, "decision": decision})
        self.decisions_, self._statistics = made, statistics
        return self

    # -- scoring ----------------------------------------------------------------------------------

    def iter_predictions(self, images: Images, batch: int | None = None) -> Iterator[Predictions]:
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
        return self.predict_from_scores(known.names, self.score(known), groups=known.groups)

    def predict_from_scores(
        self, names: Sequence[str], scores: Scores, fdr: float | None = None, groups: Sequence[str] = ()
    ) -> Verdicts:
        """Verdicts on scores (N,) that were computed before; `groups` has each image's, where there are any.

        With a false discovery rate `fdr`, the threshold is such that, of all N images that it flags, at most that
        share is normal on average; it is infinite where none is flagged.

        Raises:
            StateError: the detector is not calibrated, or decides by groups and none are given.
            SettingsError: a group has no calibration images.
        """
        self._fitted()
        decisions, count = self.decisions_, len(scores)
        if fdr is None:
            thresholds = decisions.thresholds(count, groups)
        else:
            thresholds = decisions.discovery_thresholds(scores, fdr, groups)
        labels = (scores > thresholds).astype(np.int8)
        return Verdicts(tuple(names), scores, decisions.p_values(scores, groups), thresholds, labels)

    @property
    def decision_(self) -> Decision:
        """The decision for all images.

        Raises:
            StateError: the detector is not fitted, or decides for each group by itself (`decisions_`).
        """
        self._fitted()
        return self.decisions_.single

    @property
    def backend(self) -> Backend:
        """The runtime that holds the scoring graph."""
        return self._fitted()

    @property
    def spec(self) -> InputSpec:
        """The pixels that this detector takes."""
        return self._fitted().spec

    def fingerprints(self, part: Literal["training", "calibration"]) -> npt.NDArray[np.uint64]:
        """Fingerprints of the images that the detector was trained or calibrated on."""
        return self._statistics[f"{part}.fingerprints"]

    @property
    def region(self) -> npt.NDArray[np.bool_]:
        """(H, W): where an image counts."""
        return np.ones((self.spec.height, self.spec.width), dtype=bool) if self._roi is None else self._roi

    @property
    def map_threshold(self) -> float | None:
        """What a map's largest value stays at or below for normal images, all but the false-alarm rate of them.

        Where that rate cannot be promised, the largest value of all calibration images; None without maps.
        """
        peaks, settings = self._statistics["calibration.map_peaks"], self.decisions_.settings
        if not len(peaks):
            return None
        try:
            rank = threshold_rank(len(peaks), settings.false_alarm_rate or DEFAULT_RATE, settings.confidence)
        except CalibrationError:
            rank = len(peaks)
        return float(peaks[rank - 1]) if peaks[rank - 1] > 0 else None

    # -- files ------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What this detector is, what it promises, what it was made from."""
        self._fitted()
        return self._manifest

    @property
    def tensors(self) -> detector_file.Tensors:
        """Everything else that a detector file holds: statistics, region of interest, weights where there are any."""
        roi = {} if self._roi is None else {detector_file.ROI: self._roi.astype(np.uint8)}
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
        if self.graph is not None:
            if path.suffix != ".onnx":
                raise SettingsError(
                    f"{path}: this detector was loaded from an exported file, whose graph can only be saved as .onnx"
                )
            return onnx_file.save_onnx(path, self.graph, self.manifest, self.tensors)
        if path.suffix != ".safetensors":
            raise SettingsError(
                f"{path}: detector files end in .safetensors (to deploy as .onnx, use `oddlens export`)"
            )
        return detector_file.save(path, self.manifest, self.tensors)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Detector:
        """Read a detector file (`.safetensors`, or `.onnx` without torch), and prove that it scores as it did.

        It runs in the runtime, and the precision, that it is calibrated for.

        Raises:
            DataNotFoundError: there is no such file.
            ArtifactError: it is damaged, foreign, or gives other scores than when it was written.
            MissingExtraError: its runtime is not installed.
        """
        path = Path(path)
        backend, manifest, tensors, graph = loading.open_backend(path, device)
        detector = cls(manifest.model, training=manifest.training, decision=manifest.decision, device=device)
        detector.backend_, detector.loaded = backend, True
        detector.graph = graph
        detector._roi = tensors[detector_file.ROI].astype(bool) if detector_file.ROI in tensors else None
        detector._statistics = detector_file.select_statistics(tensors)
        detector._manifest = manifest
        detector.decisions_ = calibration.build_decision(manifest.decision, tensors, manifest.data)
        return detector

    # -- inside -----------------------------------------------------------------------------------

    def _running(self, runtime: RuntimeSettings) -> Detector:
        """A copy of this detector in another runtime, for which it is not calibrated yet."""
        if (self.graph is None) != (runtime.engine == "torch"):
            raise SettingsError(
                f"{runtime.engine} does not run this detector: torch runs .safetensors files, onnxruntime and openvino "
                "the .onnx files that `oddlens export` makes of them"
            )
        other = copy.copy(self)
        if self.graph is not None:
            other.backend_ = open_graph(self.graph, self.spec, runtime, Path("this detector"))
        else:
            from oddlens.inference.torch_backend import TorchBackend, resolve_device

            assert self.network is not None  # noqa: S101 - without a graph there is one
            other.backend_ = TorchBackend(self.network, resolve_device(self.device), runtime.precision)
        other._statistics = {**self._statistics, "training.scores": np.empty(0)}
        changes = {"runtime": runtime, "golden": golden.golden_scores(other.backend_)}
        other._manifest = self._manifest.model_copy(update=changes)
        return other

    def _fitted(self) -> Backend:
        backend: Backend | None = getattr(self, "backend_", None)
        if backend is None:
            raise StateError("this detector is not fitted; call fit(images) first, or Detector.load(path)")
        return backend

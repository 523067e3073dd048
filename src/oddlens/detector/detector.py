"""Detector: fit on normal images, calibrate, score new ones, save and load."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.artifact import detector_file
from oddlens.artifact.detector_file import Tensors
from oddlens.artifact.loading import load_verified
from oddlens.config.base import DecisionSettings, InputSpec, RuntimeSettings, TrainingSettings
from oddlens.config.detectors import DetectorSettings
from oddlens.config.manifest import CountBy, Manifest
from oddlens.conformal.decision import Decision
from oddlens.conformal.exceedance import DEFAULT_MAX_ANOMALOUS
from oddlens.conformal.lot import Lot, LotTest
from oddlens.conformal.ranks import Scores, check_scores
from oddlens.data.open import Images, as_image_set, as_training_images
from oddlens.data.splitting import CalibrationSet
from oddlens.detector import calibration, files
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import CalibrationError, DataError, MissingExtraError, StateError
from oddlens.inference import golden
from oddlens.inference.backend import Backend, Predictions
from oddlens.inference.scoring import anomaly_scores, batch_size, score_batches
from oddlens.inference.tiling import graph_backend, with_tiles
from oddlens.io.paths import expand_home
from oddlens.io.text import as_text

if TYPE_CHECKING:
    from oddlens.models.base import Model
    from oddlens.models.ranks import Ranks
    from oddlens.training.history import Log, Progress
    from oddlens.training.resolve import Calibration
    from oddlens.training.summary import FitResult

IN_FILE = frozenset({"backend_", "decisions_", "graph", "_manifest", "_roi", "_statistics"})  # attributes in a file


class Detector:
    """An anomaly detector for images.

    `fit` trains on normal images and holds some of them out for calibration; `predict` then keeps to the chosen
    false-alarm rate. The constructor only stores its parameters.

    Parameters:
        model: "auto", the name of a family, or a family's settings. `auto` selects and trains an ensemble.
        training: epochs, batch size, learning rate, precision, random seed; the family's defaults for the rest.
        decision: how scores become verdicts; its `false_alarm_rate` is what is guaranteed.
        size: longer side of the model's input in pixels; None keeps small images as they are and uses at most 128
            otherwise, 192 for `auto`, or with a backbone 512 and at most 256 for the shorter side. With tiles, longer
            side of the whole image; None keeps that of the images.
        tile: side in pixels of overlapping tiles that are scored one by one, so that small defects in large images are
            detected; "off" shrinks images to the model's input. "auto" tiles, unless `size` is set, where that would
            shrink images more than eightfold, or distort long ones.
        roi: region of interest outside which pixels do not count: the path of a mask image, or
            "left,top,right,bottom" as fractions of the image.
        device: "auto", "cpu" or "cuda".
        budget: seconds that fitting and calibrating may take together; by default 300 for `auto`, else no limit.

    Example:
        >>> import numpy as np
        >>> from oddlens import Detector, TrainingSettings
        >>> rng = np.random.default_rng(0)
        >>> normal = rng.integers(100, 120, (60, 16, 16), dtype=np.uint8)
        >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(normal)
        >>> bright = np.full((1, 16, 16), 250, dtype=np.uint8)
        >>> detector.predict(bright).verdict
        ['anomaly']

    Attributes:
        history_: what training recorded: a row of numbers for each epoch; of `fit` only.
        seconds_: how long "fit" and "calibrate" took.
        decision_: the decision for all images.
        manifest: all that a detector file says about the detector.
    """

    def __init__(
        self,
        model: str | DetectorSettings = "auto",
        *,
        training: TrainingSettings | None = None,
        decision: DecisionSettings | None = None,
        size: int | None = None,
        tile: int | Literal["auto", "off"] = "auto",
        roi: str | None = None,
        device: str = "auto",
        budget: float | None = None,
    ) -> None:
        self.model = model
        self.training = training
        self.decision = decision
        self.size = size
        self.tile = tile
        self.roi = roi
        self.device = device
        self.budget = budget
        self.threads: int | None = None  # of ONNX Runtime and OpenVINO; None leaves it to them
        self.loaded = False
        self.graph: bytes | None = None  # of the .onnx file that it was loaded from

    # -- fitting ----------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        *,
        hold_out: bool = True,
        calibration: Calibration = "auto",
        count_by: CountBy = "group",
        folder: Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        log: Log | None = None,
        ranks: Ranks | None = None,
    ) -> Detector:
        """Train on normal images, and calibrate on a held-out part of them, or on all by leave-one-out.

        Parameters:
            images: what `open_dataset` opens by its path or name (of a folder with `train/` and `test/` only the
                normal training images are used), an `ImageSet`, an array or tensor (N, H, W[, C]), or a list of
                paths, arrays (H, W[, C]), images of Pillow and `bytes` of image files. Colour is in the order RGB,
                with the channels last; OpenCV's arrays are BGR, which cannot be told from RGB.
            hold_out: False trains on all images; `calibrate` must then be called with others.
            calibration: "held_out"; "leave_one_out", where the family supports it: nothing is held out, and each
                training image is scored without itself; "auto": leave-one-out where it is possible.
            count_by: "group" counts each group of near-duplicates once, and guarantees the rate for images of new
                parts; "image" counts each image.
            folder: where training writes its history and checkpoints; None writes none.
            resume: continue from the newest checkpoint in `folder`.
            progress: called with a `TrainingStep` now and then.
            log: called before training with each remark on what the detector cannot see in the images; they are in the
                manifest, too.
            ranks: the processes that train together, of which this is the first: see `training.distributed`.

        Raises:
            DataError: the images cannot be used.
            StateError: the detector was loaded from a file, or this is not the first process.
            SettingsError: `folder` has a history or checkpoints that oddlens did not write.
            CalibrationError: the held-out images cannot guarantee the requested rate (found before training).
            TrainingError: training diverged.
            StateError: the detector was loaded from a file.
            MissingExtraError: the packages for training are not installed.

        Example:
            >>> from oddlens import AutoencoderSettings, Detector, TrainingSettings, open_dataset
            >>> threes = open_dataset("digits", normal="3").train
            >>> detector = Detector(AutoencoderSettings(latent_dim=16), training=TrainingSettings(epochs=2, seed=1))
            >>> detector.fit(threes).manifest.data.n_training
            93
        """
        if self.loaded:
            raise StateError("this detector was loaded from a file; make a new Detector to fit")
        if ranks is not None and not ranks.is_first:
            raise StateError(f"process {ranks.rank} follows the first one, which fits; call `follow` in it instead")
        which: dict[str, Any] = {"hold_out": hold_out, "calibration": calibration, "count_by": count_by}
        which |= {} if ranks is None else {"ranks": ranks}  # torch is not imported yet
        result = self._train(images, which, folder, resume, progress, log, time.perf_counter())
        self._manifest = result.manifest
        self.backend_: Backend = result.backend
        self._roi, self._statistics = result.roi, result.statistics
        self.history_, self.seconds_ = result.history, {"fit": result.seconds}
        self.records_ = result.records
        decision = self.decision or DecisionSettings()
        if result.calibration is not None:
            return self._calibrate(result.calibration, decision, "held out of the training images", count_by)
        return self._set_statistics(result.statistics, decision, {})

    def _train(
        self,
        images: Images,
        which: dict[str, Any],
        folder: Path | None,
        resume: bool,
        progress: Progress | None,
        log: Log | None,
        started: float,
    ) -> FitResult:
        try:
            from oddlens.training.fit import fit
            from oddlens.training.resolve import FitConfig
        except ModuleNotFoundError as error:
            raise MissingExtraError("fitting a detector", "train") from error
        config = FitConfig(
            model=self.model,
            training=self.training,
            decision=self.decision or DecisionSettings(),
            size=self.size,
            tile=self.tile,
            roi=self.roi,
            device=self.device,
            budget=self.budget,
            **which,
        )
        return fit(config, images, folder, resume, progress, log, started)

    def calibrate(
        self,
        images: Images,
        *,
        decision: DecisionSettings | None = None,
        source: str = "",
        add: bool = False,
        count_by: CountBy | None = None,
        runtime: RuntimeSettings | None = None,
    ) -> Detector:
        """Recalibrate on normal images that the detector was not trained on, in any form that `fit` takes.

        With `add`, they join the present calibration images, each image counting once. An `ImageSet` with groups
        (`data.groups.assign_groups`) gives each group its own threshold. `count_by` is "group" to count each group of
        near-duplicates once, or "image"; by default "group", with `add` whatever counts already. With another
        `runtime`, the detector scores in that one from now on, and the scores of its training images are dropped.
        `source` describes the images in the manifest; by default it is `images.source`.

        Raises:
            StateError: the detector is not fitted, or scores of two runtimes, or two ways to count, would be mixed.
            DataError: the images cannot be used, or the detector was trained on some of them.
            CalibrationError: they cannot guarantee the requested rate.
            SettingsError: the runtime does not run this kind of file, or there is no such way to count.
            MissingExtraError: the runtime is not installed.

        Example:
            >>> from oddlens import DecisionSettings, Detector, TrainingSettings, open_dataset
            >>> threes = open_dataset("digits", normal="3").train
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1))
            >>> detector = detector.fit(threes.subset(range(80)), hold_out=False)
            >>> later = threes.subset(range(80, len(threes)))
            >>> detector = detector.calibrate(later, decision=DecisionSettings(false_alarm_rate=0.1))
            >>> detector.manifest.data.n_calibration
            52
        """
        backend, image_set, detector = self._check_is_fitted(), as_training_images(images), self
        if runtime is not None and runtime != self._manifest.runtime:
            if add:
                raise StateError(
                    "scores of another runtime or precision cannot be added to the present calibration scores; "
                    "recalibrate on new normal images alone"
                )
            detector = self._with_runtime(runtime)
        calibration.check_mixing(self._manifest.data, image_set, add)
        counted = calibration.resolve_count_by(self._manifest.data, count_by, add)
        new_set = calibration.calibration_set(image_set, backend.spec, self._statistics, add, counted)
        detector._calibrate(new_set, decision or self.decisions_.settings, source or image_set.source, counted, add)
        vars(self).update(vars(detector))  # only now, when nothing can fail any more
        return self

    def set_decision(self, decision: DecisionSettings) -> Detector:
        """Change how scores become verdicts; the scores stay the same.

        Raises:
            StateError: the detector is not fitted, or lacks the scores that the decision needs.
            CalibrationError: its calibration images cannot guarantee the requested rate; nothing changes.

        Example:
            >>> from oddlens import DecisionSettings, Detector, TrainingSettings, open_dataset
            >>> threes = open_dataset("digits", normal="3").train
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(threes)
            >>> strict = detector.decision_.threshold
            >>> detector.set_decision(DecisionSettings(false_alarm_rate=0.2)).decision_.threshold < strict
            True
        """
        self._check_is_fitted()
        grouped = calibration.build_decision(decision, self._statistics, self._manifest.data)
        grouped.check()  # before anything changes
        self.decisions_, self._manifest = grouped, self._manifest.model_copy(update={"decision": decision})
        return self

    def _calibrate(
        self, new_set: CalibrationSet, decision: DecisionSettings, source: str, count_by: CountBy, add: bool = False
    ) -> Detector:
        started = time.perf_counter()
        present = self._manifest.data.groups if add else ()
        names = tuple(dict.fromkeys([*present, *sorted(set(new_set.groups))]))
        backend = self._check_is_fitted()
        statistics = calibration.calibration_statistics(backend, new_set, self._statistics, names, add)
        self.seconds_ = {**getattr(self, "seconds_", {}), "calibrate": round(time.perf_counter() - started, 3)}
        summary = {
            "calibration_source": as_text(source),
            "folds": 1,
            "calibration": "held_out",
            "count_by": count_by,
            "groups": names,
            "grouped_by": new_set.grouped_by,
        }
        return self._set_statistics(statistics, decision, summary)

    def _set_statistics(self, statistics: Tensors, decision: DecisionSettings, summary: dict[str, object]) -> Detector:
        """Decide by these statistics; a guarantee that is impossible is refused before anything changes."""
        count = len(statistics["calibration.scores"])
        data = self._manifest.data.model_copy(update={"n_calibration": count, **summary})
        grouped = calibration.build_decision(decision, statistics, data)
        if count:
            grouped.check()
        self._manifest = self._manifest.model_copy(update={"data": data, "decision": decision})
        self.decisions_, self._statistics = grouped, statistics
        return self

    # -- scoring ----------------------------------------------------------------------------------

    def iter_predictions(self, images: Images, batch: int | None = None) -> Iterator[Predictions]:
        """Scores, maps and reconstructions, `batch` images at a time, in order and with constant memory.

        The images are of any form that `score` takes.

        Raises:
            StateError: the detector is not fitted.
            DataError: the images are of no such form, or one cannot be read.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> digits = open_dataset("digits", normal="3")
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(digits.train)
            >>> for part in detector.iter_predictions(digits.test, batch=200):
            ...     print(len(part.anomaly_score))
            200
            200
            97
        """
        backend = self._check_is_fitted()
        return score_batches(backend, as_image_set(images).batches(backend.spec, batch or batch_size(backend.spec)))

    def score(self, images: Images) -> Scores:
        """Anomaly scores (N,): raw, higher is more anomalous.

        Parameters:
            images: one image or a list of them, each the path of a file or a folder, an array or tensor (H, W[, C])
                in the order RGB, an image of Pillow, or the `bytes` of an image file; one array or tensor
                (N, H, W[, C]); or an `ImageSet`.

        Raises:
            StateError: the detector is not fitted.
            DataError: the images are of no such form, or one cannot be read.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> digits = open_dataset("digits", normal="3")
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(digits.train)
            >>> detector.score(digits.test).shape
            (497,)
        """
        backend = self._check_is_fitted()
        return anomaly_scores(backend, as_image_set(images).batches(backend.spec, batch_size(backend.spec)))

    def predict(self, images: Images) -> Verdicts:
        """Scores, p-values and verdicts on images of any form that `score` takes.

        Images in memory are named "array[3]", by their position.

        Raises:
            StateError: the detector is not fitted, or not calibrated and decides by `conformal`.
            SettingsError: the group of an image has no calibration images.
            DataError: the images are of no such form, or one cannot be read.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> digits = open_dataset("digits", normal="3")
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(digits.train)
            >>> verdicts = detector.predict(digits.test)
            >>> bool((verdicts.label == (verdicts.anomaly_score > verdicts.threshold)).all())
            True
        """
        image_set = as_image_set(images)
        return self.predict_from_scores(image_set.names, self.score(image_set), groups=image_set.groups)

    def predict_from_scores(
        self, names: Sequence[str], scores: Scores, fdr: float | None = None, groups: Sequence[str] = ()
    ) -> Verdicts:
        """Verdicts from scores (N,) that were computed before; `groups` has each image's group, where there are any.

        With a false discovery rate `fdr`, the threshold is such that, on average, at most that share of the flagged
        images is normal; it is infinite where no image is flagged.

        Raises:
            StateError: the detector is not calibrated, or has a threshold for each group and `groups` is empty.
            SettingsError: a group has no calibration images.
            CalibrationError: a score is NaN.
            DataError: there is not one name for each score.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> digits = open_dataset("digits", normal="3")
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(digits.train)
            >>> scores = detector.score(digits.test)
            >>> len(detector.predict_from_scores(digits.test.names, scores, fdr=0.2))
            497
        """
        self._check_is_fitted()
        scores = check_scores(scores, "score")
        decision, count = self.decisions_, len(scores)
        if len(names) != count:
            raise DataError(f"there are {len(names)} names for {count} scores; give one name for each score")
        if fdr is None:
            thresholds = decision.thresholds(count, groups)
        else:
            thresholds = decision.discovery_thresholds(scores, fdr, groups)
        labels = (scores > thresholds).astype(np.int8)
        return Verdicts(tuple(names), scores, decision.p_values(scores, groups), thresholds, labels)

    def test_lot(
        self,
        scores: Scores,
        groups: Sequence[str] = (),
        max_anomalous: float = DEFAULT_MAX_ANOMALOUS,
        images: Images | None = None,
    ) -> LotTest | None:
        """Whether images with these scores (N,) differ from the calibration images as a whole: see `conformal.lot`.

        At most the share `max_anomalous` of them, from 0 to below 1, is taken to be anomalous. With the `images`
        themselves, of any form that `score` takes, a change of light is noticed, too. Where the result is `shifted`,
        the guaranteed rate does not apply to these images. None for fewer than 30 images, or without calibration
        images. `groups` has each image's group, where there are any; groups are tested one by one.

        Raises:
            StateError: the detector is not calibrated, or has a threshold for each group and `groups` is empty.
            SettingsError: a group has no calibration images, or `max_anomalous` is no such share.
            CalibrationError: a score is NaN.
            DataError: there is not one image for each score, or one cannot be read.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> digits = open_dataset("digits", normal="3")
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(digits.train)
            >>> detector.test_lot(detector.score(digits.test), images=digits.test).n
            497
        """
        spec, lot = self._check_is_fitted().spec, Lot(self.decisions_, max_anomalous)
        brightness = None if images is None else calibration.brightness(as_image_set(images), spec, len(scores))
        lot.add(scores, groups, brightness)
        return lot.test()

    @property
    def decision_(self) -> Decision:
        """The decision for all images.

        Raises:
            StateError: the detector is not fitted, or has a threshold for each group (`decisions_`, by their names).
        """
        self._check_is_fitted()
        return self.decisions_.single

    @property
    def decision_json(self) -> dict[str, Any] | None:
        """Rate, threshold and guarantee for JSON, with groups for each of them; None where there are none yet."""
        self._check_is_fitted()
        try:
            return self.decisions_.as_json()
        except (StateError, CalibrationError):
            return None

    @property
    def backend(self) -> Backend:
        """The runtime that holds the scoring graph."""
        return self._check_is_fitted()

    @property
    def spec(self) -> InputSpec:
        """The form of the pixels that this detector scores."""
        return self._check_is_fitted().spec

    def fingerprints(self, part: Literal["training", "calibration"]) -> npt.NDArray[np.uint64]:
        """Fingerprints (n,) of the pixels of the images that the detector was trained or calibrated on, sorted.

        Raises:
            StateError: the detector is not fitted.

        Example:
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> threes = open_dataset("digits", normal="3").train
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(threes)
            >>> detector.fingerprints("training").shape, detector.fingerprints("calibration").shape
            ((93,), (39,))
        """
        self._check_is_fitted()
        return self._statistics[f"{part}.fingerprints"]

    @property
    def region(self) -> npt.NDArray[np.bool_]:
        """Region of interest (H, W) bool: the pixels that count.

        Raises:
            StateError: the detector is not fitted.
        """
        spec = self.spec
        return np.ones((spec.height, spec.width), dtype=bool) if self._roi is None else self._roi

    @property
    def map_threshold(self) -> float | None:
        """The value that the maximum of a normal image's map exceeds with the false-alarm rate at most.

        Where that rate cannot be guaranteed, the largest value of all calibration images; None without maps.

        Raises:
            StateError: the detector is not fitted.
        """
        self._check_is_fitted()
        return calibration.map_threshold(self._statistics["calibration.map_peaks"], self.decisions_.settings)

    # -- files ------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What this detector is, what it guarantees, and what it was made from.

        Raises:
            StateError: the detector is not fitted.
        """
        self._check_is_fitted()
        return self._manifest

    @property
    def tensors(self) -> Tensors:
        """The tensors of a detector file: statistics, region of interest, weights and backbone where there are any.

        Raises:
            StateError: the detector is not fitted.
        """
        self._check_is_fitted()
        return files.file_tensors(self._statistics, self._roi, self.network)

    @property
    def network(self) -> Model | None:
        """The torch model behind this detector; None when it runs from an exported file."""
        return getattr(graph_backend(self._check_is_fitted()), "model", None)

    def save(self, path: str | Path) -> Path:
        """Write a detector file; an older one is replaced in one step or not at all.

        A detector that was loaded from an `.onnx` file is written as one again, with its graph as it was.

        Raises:
            StateError: the detector is not fitted.
            SettingsError: the name does not end in .safetensors (in .onnx, where it was loaded from such a file).
            OddlensError: the file cannot be written.

        Example:
            >>> import tempfile
            >>> from oddlens import Detector, TrainingSettings, open_dataset
            >>> threes = open_dataset("digits", normal="3").train
            >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(threes)
            >>> path = detector.save(tempfile.mkdtemp() + "/part.safetensors")
            >>> bool((Detector.load(path).score(threes) == detector.score(threes)).all())
            True
        """
        self._check_is_fitted()
        return files.save(self, Path(expand_home(str(path))))

    def export(self, path: str | Path) -> float:
        """Write the detector as one `.onnx` file, which runs without torch, and in other languages.

        Returns the largest relative difference between exported and original scores.

        Raises:
            StateError: the detector is not fitted.
            SettingsError: the name does not end in .onnx, the detector was loaded from such a file, or is calibrated
                in bf16.
            ArtifactError: the exported scores differ by more than 1e-4 (relative); nothing is written.
            OddlensError: the file cannot be written.
            MissingExtraError: the packages for training are not installed.

        Example:
            >>> from oddlens import Detector, open_dataset
            >>> detector = Detector().fit(open_dataset("digits").train)  # doctest: +SKIP
            >>> detector.export("part.onnx")  # doctest: +SKIP
            2.9e-07
        """
        self._check_is_fitted()
        try:
            from oddlens.detector.export import export
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        return export(self, Path(expand_home(str(path))))

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", threads: int | None = None, content: bytes | None = None
    ) -> Detector:
        """Read a detector file (`.safetensors`, or `.onnx` without torch), and verify that it scores as it did.

        It runs in the runtime and the precision that it was calibrated in. `threads` is the number of processor
        threads of ONNX Runtime and OpenVINO, by default all; PyTorch's is set by `torch.set_num_threads`. With
        `content`, those bytes are read instead of the file, which `path` then only names, with its suffix.

        Raises:
            DataNotFoundError: there is no such file.
            ArtifactError: it is damaged, foreign, or gives other scores than when it was written.
            SettingsError: `device` is "cuda" and the file an exported one, or there is no such device.
            MissingExtraError: its runtime is not installed.

        Example: see `Detector.save`.
        """
        return cls._load(path, device, threads, content)

    @classmethod
    def _load(cls, path: str | Path, device: str, threads: int | None, content: bytes | None) -> Detector:
        backend, manifest, tensors, graph = load_verified(Path(expand_home(str(path))), device, threads, content)
        detector = cls(manifest.model, training=manifest.training, decision=manifest.decision, device=device)
        detector.backend_, detector.loaded = backend, True
        detector.graph, detector.threads = graph, threads
        detector._roi = tensors[detector_file.ROI].astype(bool) if detector_file.ROI in tensors else None
        detector._statistics = detector_file.select_statistics(tensors)
        detector._manifest = manifest
        detector.decisions_ = calibration.build_decision(manifest.decision, detector._statistics, manifest.data)
        return detector

    # -- copies -----------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the bytes of the detector file, which are verified when they are read, and the parameters."""
        if not hasattr(self, "backend_"):
            return type(self), (), dict(vars(self))
        name = "pickled detector" + (".safetensors" if self.graph is None else ".onnx")
        others = {key: value for key, value in vars(self).items() if key not in IN_FILE}
        return type(self)._load, (name, self.device, self.threads, files.file_content(self)), others

    def __copy__(self) -> Detector:
        """A copy that shares the runtime; recalibrating one leaves the other alone."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    # -- internals --------------------------------------------------------------------------------

    def _with_runtime(self, runtime: RuntimeSettings) -> Detector:
        """A copy of this detector in another runtime, for which it is not calibrated yet."""
        other, backend = copy.copy(self), files.open_runtime(self, runtime)
        other.backend_ = with_tiles(backend, self.spec, self._manifest.tiling, self._roi)
        other._statistics = {**self._statistics, "training.scores": np.empty(0)}
        changes = {"runtime": runtime, "golden": golden.golden_scores(other.backend_)}
        other._manifest = self._manifest.model_copy(update=changes)
        return other

    def _check_is_fitted(self) -> Backend:
        backend: Backend | None = getattr(self, "backend_", None)
        if backend is None:
            raise StateError("this detector is not fitted; call fit(images) first, or Detector.load(path)")
        return backend

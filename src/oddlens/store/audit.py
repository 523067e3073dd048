"""Audit: everything that made a verdict, and the same verdict made again from the stored image and detector."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from oddlens.data.image_io import Pixels
from oddlens.data.open import as_image_set
from oddlens.detector.detector import Detector
from oddlens.inference.scoring import score_batches
from oddlens.io.environment import processor_name
from oddlens.store.inspection import Judgement, StoredInspection, as_json
from oddlens.store.store import Store

MAX_RELATIVE_DIFFERENCE = 1e-5  # of a score from another processor or version of the runtime


@dataclass(frozen=True)
class Repeated:
    """A verdict that was made again, and how it agrees with the recorded one.

    `same_bits_expected` is False where the runtime or the processor is another one; then the score may differ by
    `MAX_RELATIVE_DIFFERENCE`.
    """

    anomaly_score: float
    p_value: float | None
    threshold: float | None
    verdict: str
    runtime: str
    processor: str
    same_verdict: bool
    same_bits: bool
    same_bits_expected: bool
    relative_difference: float

    @property
    def agrees(self) -> bool:
        """Whether verdict and score are what they must be."""
        close_enough = self.relative_difference <= MAX_RELATIVE_DIFFERENCE and not self.same_bits_expected
        return self.same_verdict and (self.same_bits or close_enough)


@dataclass(frozen=True)
class Audit:
    """An inspection, what people judged, and the verdict again; where that is impossible, `repeated` is None."""

    inspection: StoredInspection
    judgements: list[Judgement]
    repeated: Repeated | None
    reason: str | None  # why it was not repeated

    def as_json(self) -> dict[str, Any]:
        """All of it as values for JSON."""
        return {
            "inspection": self.inspection.as_json(),
            "judgements": list(map(as_json, self.judgements)),
            "repeated": None if self.repeated is None else asdict(self.repeated) | {"agrees": self.repeated.agrees},
            "reason": self.reason,
        }


def audit(store: Store, inspection_id: int) -> Audit:
    """Look an inspection up, and repeat its verdict if image and detector are still stored.

    Raises:
        DataNotFoundError: there is no such inspection.
        ArtifactError: a stored file is damaged, or the detector does not score as it did.
        MissingExtraError: the detector's runtime is not installed.
    """
    inspection = store.inspection(inspection_id)
    image, file = store.image(inspection), store.detector_file(inspection)
    missing = [name for name, content in (("the image", image), ("the detector", file)) if content is None]
    repeated = None if image is None or file is None else repeat(inspection, image, *file)
    reason = f"{' and '.join(missing)} {'has' if len(missing) == 1 else 'have'} expired" if missing else None
    return Audit(inspection, store.judgements(inspection_id), repeated, reason)


def repeat(inspection: StoredInspection, image: bytes, suffix: str, file: bytes) -> Repeated:
    """Score the image as it was scored: by the same detector and number of threads, in a batch of the same size.

    The other images of the batch are copies of this one. Its place among them is not recorded, so the score of any
    place counts as the same bits.
    """
    name = f"{inspection.detector} {inspection.detector_digest}{suffix}"
    detector = Detector.load(name, device="cpu", threads=inspection.threads, content=file)
    pixels = as_image_set([image]).load(detector.spec)
    batch = cast(Pixels, np.repeat(pixels, inspection.batch_size, axis=0))
    (predictions,) = score_batches(detector.backend, [batch])
    scores = predictions.anomaly_score
    same_bits = bool((scores == inspection.anomaly_score).any())
    score = inspection.anomaly_score if same_bits else float(scores[0])
    groups = () if inspection.group is None else (inspection.group,)
    verdicts = detector.predict_from_scores([inspection.name], np.array([score]), groups=groups)
    p_value, threshold = verdicts.p_value[0].item(), verdicts.threshold[0].item()
    scale = max(abs(score), abs(inspection.anomaly_score)) or 1.0
    runtime, processor = detector.backend.name, processor_name()
    return Repeated(
        anomaly_score=score,
        p_value=p_value if np.isfinite(p_value) else None,
        threshold=threshold if np.isfinite(threshold) else None,
        verdict=verdicts.verdict[0],
        runtime=runtime,
        processor=processor,
        same_verdict=verdicts.verdict[0] == inspection.verdict,
        same_bits=same_bits,
        same_bits_expected=(runtime, processor) == (inspection.runtime, inspection.processor),
        relative_difference=abs(score - inspection.anomaly_score) / scale,
    )

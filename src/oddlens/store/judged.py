"""Images that people judged, for `calibrate` and `feedback`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.detector.feedback import JUDGEMENTS, NORMAL
from oddlens.errors import DataError
from oddlens.store.inspection import Filters, StoredInspection, Verdict
from oddlens.store.store import Store

OTHER_DETECTOR = "judged for a detector of other training images"
EXPIRED = "their images have expired"


@dataclass(frozen=True)
class JudgedImages:
    """Judged images with their labels, and what to know about them."""

    images: ImageSet
    left_out: dict[str, int]  # numbers of judged inspections that are not among them, by reason
    only_alarms: bool  # the detector had flagged all images that were judged normal


def judged_images(store: Store, detector: Detector, verdict: Verdict | None = None) -> JudgedImages:
    """The images that people judged for this detector, or an earlier calibration of it; with `verdict`, those alone.

    Each image counts once, by its last judgement that was not withdrawn. Where the detector has a threshold for each
    group, the images have the groups that they were inspected with.

    Raises:
        DataError: there are none, or one lacks a group.
    """
    training, left_out = detector.manifest.data.fingerprint, Counter[str]()
    latest: dict[str, tuple[int, StoredInspection]] = {}
    for page in store.iter_inspections(Filters(judgement="any")):
        for inspection in page:
            if inspection.training != training:
                left_out[OTHER_DETECTOR] += 1
            elif not inspection.image_stored:
                left_out[EXPIRED] += 1
            elif inspection.judgement is not None:
                number, _ = latest.get(inspection.image_sha256, (0, inspection))
                if inspection.judgement.id > number:
                    latest[inspection.image_sha256] = inspection.judgement.id, inspection
    labels = {
        inspection: JUDGEMENTS[inspection.judgement.verdict]
        for _, inspection in latest.values()
        if inspection.judgement and inspection.judgement.verdict and verdict in (None, inspection.judgement.verdict)
    }
    if not labels:
        what = "judged" if verdict is None else f"judged {verdict}"
        reasons = "".join(f"; {count} left out: {reason}" for reason, count in left_out.items())
        raise DataError(f"the store contains no image of this detector that was {what}{reasons}; judge some first")
    normal = [inspection for inspection, label in labels.items() if label == NORMAL]
    only_alarms = bool(normal) and all(inspection.verdict == "anomaly" for inspection in normal)
    return JudgedImages(to_image_set(store, detector, labels), dict(left_out), only_alarms)


def to_image_set(store: Store, detector: Detector, labels: dict[StoredInspection, int]) -> ImageSet:
    """The stored images of inspections, named after these."""
    inspections = list(labels)
    paths = [str(store.files.path(inspection.image_sha256)) for inspection in inspections]
    images = ImageSet.from_files(paths, kind="judged", label=np.array(list(labels.values())), source="judged")
    names = tuple(f"{inspection.name} (inspection {inspection.id})" for inspection in inspections)
    if not detector.decisions_.grouped:
        return replace(images, names=names)
    groups = tuple(inspection.group or "" for inspection in inspections)
    return replace(images, names=names, groups=groups, grouped_by=detector.manifest.data.grouped_by)

"""Images that people judged, for `calibrate` and `feedback`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.detector.feedback import JUDGEMENTS
from oddlens.errors import DataError
from oddlens.io.text import list_names
from oddlens.store.inspection import Filters, StoredInspection, Verdict
from oddlens.store.store import Store

OTHER_DETECTOR = "as it was judged for a detector of other training images"
EXPIRED = "as its image has expired"


class JudgedImages(NamedTuple):
    """Judged images with their labels."""

    images: ImageSet
    only_alarms: bool  # the detector had flagged all images that were judged normal


def judged_images(store: Store, detector: Detector, verdict: Verdict | None = None) -> JudgedImages:
    """The images that people judged for this detector, or an earlier calibration of it; with `verdict`, those alone.

    Each image counts once, by its last judgement that was not withdrawn. Where the detector has a threshold for each
    group, the images have the groups that they were inspected with.

    Raises:
        DataError: there are none, or one lacks a group.
    """
    left_out = defaultdict[str, list[str]](list)
    latest: dict[str, tuple[int, StoredInspection]] = {}  # by the image: the judgement's id, its inspection
    for page in store.iter_inspections(Filters(judgement="any")):
        for inspection in page:
            number = inspection.judgement.id if inspection.judgement else 0
            if inspection.training != detector.manifest.data.fingerprint:
                left_out[OTHER_DETECTOR].append(f"inspection {inspection.id}")
            elif not inspection.image_stored:
                left_out[EXPIRED].append(f"inspection {inspection.id}")
            elif number > latest.get(inspection.image_sha256, (0,))[0]:
                latest[inspection.image_sha256] = number, inspection
    judged = [inspection for _, inspection in latest.values() if verdict in (None, verdict_of(inspection))]
    if not judged:
        what = "judged" if verdict is None else f"judged {verdict}"
        reasons = "".join(f"; left out, {reason}: {list_names(names)}" for reason, names in left_out.items())
        raise DataError(f"{store.name}: contains no image of this detector that was {what}{reasons}")
    normal = [inspection.verdict for inspection in judged if verdict_of(inspection) == "normal"]
    images = to_image_set(store, detector, judged)
    images = replace(images, left_out={reason: tuple(names) for reason, names in left_out.items()})
    return JudgedImages(images, only_alarms=set(normal) == {"anomaly"})


def verdict_of(inspection: StoredInspection) -> str:
    """The verdict of the people; "" without any."""
    return (inspection.judgement and inspection.judgement.verdict) or ""


def to_image_set(store: Store, detector: Detector, inspections: Sequence[StoredInspection]) -> ImageSet:
    """The stored images of judged inspections, named after these."""
    paths = [store.files.path(inspection.image_sha256) for inspection in inspections]
    labels = [JUDGEMENTS[verdict_of(inspection)] for inspection in inspections]
    images = ImageSet.from_files(paths, kind="judged", label=labels, source=store.name)
    images = replace(images, names=tuple(f"{one.name} (inspection {one.id})" for one in inspections))
    if not detector.decisions_.grouped:
        return images
    groups = tuple(inspection.group or "" for inspection in inspections)
    return replace(images, groups=groups, grouped_by=detector.manifest.data.grouped_by)

"""The data doctor: what is wrong with a set of images before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import DEFAULT_RATE, min_calibration_size
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import fingerprints, near_duplicate_groups, thumbnails
from oddlens.errors import ImageError, MissingExtraError, OddlensError
from oddlens.evaluation import contamination
from oddlens.metrics import auroc

if TYPE_CHECKING:
    from oddlens.training.history import Progress

MAX_LISTED_FILES = 20  # files named in one finding
MIN_SEPARATION = 0.88  # share of the variance of brightness between two groups from which on they are two
MIN_GROUP_SIZE, MIN_GROUP_SHARE = 10, 0.05  # images in the smaller of the groups, at least
MIN_SHORTCUT_AUROC, MIN_SHORTCUT_IMAGES = 0.9, 10  # AUROC of what is beside the picture; images of either label

UNUSUAL_SHARE = 0.05  # share of the training images that is listed as the most unusual

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing, and what to do."""

    level: Level
    name: str
    text: str
    files: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()  # beside each file the image that it resembles, where that is the point


@dataclass
class Diagnosis:
    """What the doctor found in a data set."""

    data: DataSet
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, name: str, text: str, files: Sequence[str] = (), twins: Sequence[str] = ()) -> None:
        """Put a finding on record."""
        self.findings.append(Finding(level, name, text, tuple(files), tuple(twins)))

    @property
    def as_json(self) -> dict[str, Any]:
        """What `check --json` gives."""
        listed = [
            {"level": f.level, "name": f.name, "text": f.text, "n_files": len(f.files), "files": list(f.files)}
            for f in self.findings
        ]
        return {"ok": not any(f.level == "error" for f in self.findings), **self.facts, "findings": listed}


def check(
    data: DataSet,
    false_alarm_rate: float = DEFAULT_RATE,
    *,
    budget: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Look at every image; nothing is changed.

    With a `budget` (seconds), detectors are trained within it to find the most unusual training images.

    Raises:
        DataError: there are no images at all.
    """
    diagnosis = Diagnosis(data)
    kinds = Counter(data.test.kinds)
    diagnosis.facts |= {
        "source": data.name,
        "normal": data.normal,
        "n_train": len(data.train),
        "n_test": {kind: kinds[kind] for kind in sorted(kinds)},
        "n_masks": sum(mask is not None for mask in data.test.masks),
    }
    train = check_readable(diagnosis, "train", data.train)
    test = check_readable(diagnosis, "test", data.test)
    check_masks(diagnosis, test)
    check_sizes(diagnosis, train, test)
    check_duplicates(diagnosis, train, test)
    check_light(diagnosis, train)
    check_shortcuts(diagnosis, test)
    check_enough(diagnosis, train, false_alarm_rate)
    if budget > 0:
        check_contamination(diagnosis, train, budget, seed, progress)
    return diagnosis


def check_readable(diagnosis: Diagnosis, part: str, images: ImageSet) -> ImageSet:
    """Files that cannot be decoded are errors; the others go on."""
    good, problems = images.readable()
    diagnosis.facts[f"n_unreadable_{part}"] = len(problems)
    if problems:
        diagnosis.add(
            "error",
            "unreadable",
            f"{len(problems)} {part} image(s) cannot be read, {problems[0]}; repair or remove them, "
            "or leave them out with --skip-unreadable",
            [problem.name for problem in problems],
        )
    return good


def check_masks(diagnosis: Diagnosis, test: ImageSet) -> None:
    """Masks that cannot be read are errors; empty ones are left out of pixel metrics."""
    broken, empty = [], []
    for i, name in enumerate(test.names):
        try:
            mask = test.mask(i)
        except ImageError as error:
            broken.append(error.name)
            continue
        if mask is not None and not mask.any():
            empty.append(name)
    if broken:
        diagnosis.add(
            "error", "unreadable masks", f"{len(broken)} mask(s) cannot be read; repair or remove them", broken
        )
    if empty:
        text = f"{len(empty)} mask(s) are empty; their images are left out of pixel metrics"
        diagnosis.add("note", "empty masks", text, empty)
    stray = list(diagnosis.data.stray_masks)
    diagnosis.facts["n_stray_masks"] = len(stray)
    if stray:
        text = f"{len(stray)} mask(s) match no test image; the mask of test/<defect>/<name> is ground_truth/<defect>/"
        diagnosis.add("warning", "stray masks", text + "<name>_mask", stray)


def check_sizes(diagnosis: Diagnosis, train: ImageSet, test: ImageSet) -> None:
    """Mixed sizes, grey beside colour, 8 beside 16 bits."""
    infos = train.infos()
    sizes = Counter((info.width, info.height) for info in infos)
    colours = Counter("colour" if info.channels == 3 else "grey" for info in infos)
    everything = [*infos, *test.infos()]
    bits = Counter(info.bits for info in everything)
    common = [{"width": w, "height": h, "n": n} for (w, h), n in sizes.most_common(10)]
    diagnosis.facts |= {"sizes": common, "n_sizes": len(sizes)}
    diagnosis.facts |= {"modes": dict(colours), "bits": {str(depth): n for depth, n in bits.items()}}
    if len(sizes) > 1:
        ratios = [width / height for width, height in sizes]
        unlike = max(ratios) / min(ratios) > 1.5
        text = f"images of {len(sizes)} sizes are stretched to one"
        if unlike:
            text += (
                f"; width / height goes from {min(ratios):.2f} to {max(ratios):.2f}: crop them alike for sharper maps"
            )
        diagnosis.add("warning" if unlike else "note", "mixed sizes", text)
    if len(colours) > 1:
        rarer = min(colours, key=colours.__getitem__)
        files = [
            name for name, info in zip(train.names, infos, strict=True) if (info.channels == 3) == (rarer == "colour")
        ]
        text = f"{colours['grey']} grey and {colours['colour']} colour images are mixed; two cameras in one folder? "
        diagnosis.add("warning", "mixed modes", text + "convert them alike, or fit one detector each", files)
    if len(bits) > 1:
        rarer_bits = min(bits, key=bits.__getitem__)
        names = [*train.names, *test.names]
        files = [name for name, info in zip(names, everything, strict=True) if info.bits == rarer_bits]
        text = f"{bits[8]} images of 8 bits and {bits[16]} of 16 bits are mixed; convert them to one depth"
        diagnosis.add("error", "mixed bit depths", text, files)


def check_duplicates(diagnosis: Diagnosis, train: ImageSet, test: ImageSet) -> None:
    """Exact copies, and near-duplicates within training and between training and test."""
    if not len(train) or diagnosis.facts["bits"].keys() >= {"8", "16"}:
        return
    spec = train.choose_spec(None)
    parts = [images.load(spec) for images in (train, test) if len(images)]
    names = [*train.names, *test.names]
    prints = np.concatenate([fingerprints(pixels) for pixels in parts])
    _, first, inverse = np.unique(prints, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(prints)))
    groups = near_duplicate_groups(np.concatenate([thumbnails(pixels) for pixels in parts]))
    sizes = np.bincount(groups)
    in_train = np.arange(len(names)) < len(train)
    with_train = np.isin(groups, groups[in_train])
    leaks = np.flatnonzero(~in_train & with_train)
    near = int((sizes[groups[in_train]] > 1).sum())
    diagnosis.facts |= {"n_duplicates": len(copies), "n_near_duplicates_train": near, "n_leaks": len(leaks)}
    diagnosis.facts["n_groups_train"] = len(np.unique(groups[in_train]))
    if len(copies):
        text = f"{len(copies)} image(s) are exact copies of others; they make a calibration look larger than it is: "
        originals = [names[first[inverse[i]]] for i in copies]
        diagnosis.add("warning", "duplicates", text + "remove them", [names[i] for i in copies], originals)
    if near:
        diagnosis.add(
            "note",
            "near-duplicates",
            f"{near} of {len(train)} training images have a near-duplicate "
            f"({diagnosis.facts['n_groups_train']} groups); fit keeps a group on one side of its split, and a promise "
            "counted by images does not cover groups",
        )
    if len(leaks):
        text = (
            f"{len(leaks)} test image(s) are near-duplicates of training images, so that results on them look better "
        )
        one_of = dict(zip(groups[in_train].tolist(), train.names, strict=True))  # a training image of each group
        twins = [one_of[group] for group in groups[leaks].tolist()]
        files = [names[i] for i in leaks]
        diagnosis.add("warning", "leak", text + "than on new parts: split by part, not by picture", files, twins)


def brightness(images: ImageSet) -> npt.NDArray[np.float64]:
    """(N,) mean values of the images, as shares of the value range."""
    spec = images.choose_spec(None)
    means = [pixels.mean(axis=(1, 2, 3)) / spec.value_max for pixels in images.batches(spec, 64)]
    return np.concatenate(means) if means else np.empty(0)


def check_light(diagnosis: Diagnosis, train: ImageSet) -> None:
    """Two groups of brightness among the normals: two cameras or lamps in one folder."""
    if len(train) < 2 * MIN_GROUP_SIZE or diagnosis.facts["bits"].keys() >= {"8", "16"}:
        return
    values = brightness(train)
    cut, share = two_groups(values)
    brighter = values > cut
    smaller = min(int(brighter.sum()), int((~brighter).sum()))
    if share < MIN_SEPARATION or smaller < max(MIN_GROUP_SIZE, MIN_GROUP_SHARE * len(values)):
        return
    rarer = brighter if brighter.sum() == smaller else ~brighter
    diagnosis.add(
        "warning",
        "brightness groups",
        f"the training images fall into two groups by brightness ({int((~brighter).sum())} about "
        f"{values[~brighter].mean():.0%}, {int(brighter.sum())} about {values[brighter].mean():.0%} of the range): two "
        "cameras or lamps in one folder? Fit one detector each, or calibrate on both in the shares that you will see",
        [train.names[i] for i in np.flatnonzero(rarer)],
    )


def two_groups(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Where numbers (N,) are best cut into two, and the share of their variance that lies between the two (Otsu 1979).

    The share is 0.64 for a bell curve, 0.75 for an even spread, and near 1 for two groups far apart.
    """
    ordered = np.sort(values)
    total = float(((ordered - ordered.mean()) ** 2).sum())
    if total == 0:
        return float(ordered[0]), 0.0
    n, count = len(ordered), np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1] / count
    above = (ordered.sum() - np.cumsum(ordered)[:-1]) / (n - count)
    between = count * (n - count) / n * (above - below) ** 2
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2), float(between[best] / total)


def check_shortcuts(diagnosis: Diagnosis, test: ImageSet) -> None:
    """Things beside the picture that tell the test classes apart by themselves: an easy test says nothing."""
    labels = test.labels
    if min(int((labels == 0).sum()), int((labels == 1).sum())) < MIN_SHORTCUT_IMAGES:
        return
    infos = test.infos()
    sides = {
        "image size": [info.width * info.height for info in infos],
        "file size": [Path(file).stat().st_size for file in test.images if isinstance(file, str)],
    }
    if not diagnosis.facts["bits"].keys() >= {"8", "16"}:
        sides["mean brightness"] = brightness(test).tolist()
    for name, values in sides.items():
        if len(values) != len(test):
            continue
        try:
            found = auroc(labels, np.asarray(values, dtype=np.float64))
        except MissingExtraError:  # a deployed install: nothing is learnt or tested there
            return
        diagnosis.facts.setdefault("shortcuts", {})[name] = found
        if max(found, 1 - found) >= MIN_SHORTCUT_AUROC:
            diagnosis.add(
                "warning",
                "shortcut",
                f"{name} alone tells normal from anomalous test images (AUROC {max(found, 1 - found):.2f}): results on "
                "them say little about defects; were they made or saved in different ways?",
            )


def check_enough(diagnosis: Diagnosis, train: ImageSet, rate: float) -> None:
    """Whether half of the normals, the most that is held out, can promise the asked rate."""
    needed, held_out = min_calibration_size(rate), len(train) // 2
    diagnosis.facts["n_needed"] = 2 * needed
    if held_out < needed:
        best = f"a false-alarm rate of {1 / (held_out + 1):.2g} at best" if held_out else "nothing"
        diagnosis.add(
            "warning",
            "too few images",
            f"{len(train)} normal images: the {held_out} that can be held out promise {best}; "
            f"{rate:g} needs {needed} held out, about {2 * needed} in all",
        )


def check_contamination(
    diagnosis: Diagnosis, train: ImageSet, budget: float, seed: int, progress: Progress | None
) -> None:
    """The training images that are least like the others: where anomalies among the normals would be found."""
    if len(train) < contamination.MIN_IMAGES or diagnosis.facts["bits"].keys() >= {"8", "16"}:
        return
    try:
        found = contamination.anomaly_zscores(train, budget, seed, progress)
    except OddlensError as error:  # whatever else was found is worth telling
        diagnosis.add("note", "not looked for", f"anomalies among the normal images were not looked for: {error}")
        return
    order = np.argsort(-found, kind="stable")[: max(1, round(UNUSUAL_SHARE * len(train)))]
    diagnosis.facts["unusual"] = [{"file": train.names[i], "deviations": float(found[i])} for i in order]
    diagnosis.add(
        "note",
        "unusual",
        f"the {len(order)} most unusual of {len(train)} training images ({UNUSUAL_SHARE:.0%}), each judged by a "
        "detector that did not learn it, the most unusual first: look at them, and remove those that are not normal",
        [train.names[i] for i in order],
    )

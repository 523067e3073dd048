"""The data doctor: what is wrong with a set of images before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from oddlens.calibration import DEFAULT_RATE, images_needed
from oddlens.datasets import DataSet, ImageSet, near_duplicate_groups, thumbnails
from oddlens.errors import ImageError
from oddlens.scoring import fingerprints

LISTED = 20  # files named in one finding

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing, and what to do."""

    level: Level
    name: str
    text: str
    files: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """What the doctor found in a data set."""

    data: DataSet
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, name: str, text: str, files: list[str] | None = None) -> None:
        """Put a finding on record."""
        self.findings.append(Finding(level, name, text, tuple(files or ())))

    @property
    def as_json(self) -> dict[str, Any]:
        """What `check --json` gives."""
        listed = [
            {"level": f.level, "name": f.name, "text": f.text, "n_files": len(f.files), "files": list(f.files)}
            for f in self.findings
        ]
        return {"ok": not any(f.level == "error" for f in self.findings), **self.facts, "findings": listed}


def check(data: DataSet, false_alarm_rate: float = DEFAULT_RATE) -> Diagnosis:
    """Look at every image; nothing is changed.

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
    check_enough(diagnosis, train, false_alarm_rate)
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
        diagnosis.add("warning", "duplicates", text + "remove them", [names[i] for i in copies])
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
        diagnosis.add(
            "warning", "leak", text + "than on new parts: split by part, not by picture", [names[i] for i in leaks]
        )


def check_enough(diagnosis: Diagnosis, train: ImageSet, rate: float) -> None:
    """Whether half of the normals, the most that is held out, can promise the asked rate."""
    needed, held_out = images_needed(rate), len(train) // 2
    diagnosis.facts["n_needed"] = 2 * needed
    if held_out < needed:
        best = f"{1 / (held_out + 1):.2g}" if held_out else "nothing"
        diagnosis.add(
            "warning",
            "too few images",
            f"{len(train)} normal images: the {held_out} that can be held out promise a false-alarm rate of {best} at "
            f"best; {rate:g} needs {needed} held out, about {2 * needed} in all",
        )

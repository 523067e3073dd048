"""Scores of many unseen normal images, made once for each set and detector, and kept: what decisions are tried on.

A detector is fitted on half of a set's normal training images. Its pool is the other half with the normal test images,
at most `MOST` of them; changed versions of the pool's images are scored too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cells import code_digest, say
from PIL import Image, ImageFilter

from oddlens.config.base import InputSpec
from oddlens.config.parse import duration
from oddlens.data.groups import read_groups
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet, concatenate
from oddlens.data.open import open_dataset
from oddlens.data.splitting import split_groups
from oddlens.detector.detector import Detector
from oddlens.evaluation import corruptions

Scores = npt.NDArray[np.float64]

FAMILIES = ("autoencoder", "dictionary", "transforms", "defects", "auto")
MOST = 3000  # images in a pool
SHIFT = 0.5  # standard deviations by which a change moves the pool's mean score
TRIED = 200  # images on which its strength is found
ROUNDS = 7  # of bisection


@dataclass(frozen=True)
class Pool:
    """Scores of one detector."""

    training: Scores  # of images that it was trained on
    normal: Scores  # (N,) of normal images that it was not trained on
    groups: npt.NDArray[np.intp]  # (N,) which of them are pictures of one part
    tested: npt.NDArray[np.bool_]  # (N,) which of them come from the set's test part, the others from its training part
    odd: Scores  # of distorted ones; empty where nothing was distorted
    changed: Mapping[str, Scores]  # each (N,): the pool's images, changed until the mean score has moved by `SHIFT`


def pool(
    cache: Path, data: Path | None, name: str, normal: str | None, family: str, seed: int, budget: str,
    parts: Path | None = None, changes: bool = False,
) -> Pool:  # fmt: skip
    """The pool of a set and a family, from the cache or made now; with changed images where `changes` asks for them.

    `parts` is a CSV file that says in its column `group` which files of a folder are pictures of one part; without it
    every picture is one.
    """
    if data is None or not (data / name / "train").is_dir():
        parts = None  # files in folders alone are known by their names
    told = f"{name} {parts.read_text() if parts else ''}".encode()
    key = f"{Path(name).name}-{normal or 'all'}-{family}-{budget}-s{seed}"
    digest = hashlib.blake2b(told, digest_size=4).hexdigest()
    whole, plain = (cache / f"{kind}-{key}-{digest}-{code_digest()}.npz" for kind in ("pool-changed", "pool"))
    path = whole if changes or whole.exists() else plain
    if not path.exists():
        say(f"{path.stem}: fitting and scoring")
        made = make(data, name, normal, family, seed, budget, parts, changes)
        path.parent.mkdir(parents=True, exist_ok=True)
        changed = {f"changed-{kind}": scores for kind, scores in made.changed.items()}
        np.savez(
            path, allow_pickle=False, training=made.training, normal=made.normal, groups=made.groups,
            tested=made.tested, odd=made.odd, **changed,
        )  # fmt: skip
    with np.load(path, allow_pickle=False) as kept:
        changed = {key.removeprefix("changed-"): kept[key] for key in kept if key.startswith("changed-")}
        return Pool(kept["training"], kept["normal"], kept["groups"], kept["tested"], kept["odd"], changed)


def make(
    data: Path | None, name: str, normal: str | None, family: str, seed: int, budget: str, parts: Path | None,
    changes: bool,
) -> Pool:  # fmt: skip
    """Fit on half of the normal training images, and score the others; pictures of one part stay together."""
    folder = data is not None and (data / name / "train").is_dir()
    source = str(data / name) if data is not None and folder else name
    known_parts = None if parts is None else parts_of_files(parts)
    known = open_dataset(source, normal=normal, data_dir=data)
    spec = known.train.choose_spec(None)
    train = known.train.load(spec)
    learn, others = split_groups(
        of_one_part(known.train, known_parts), [len(train) - len(train) // 2, len(train) // 2], seed
    )
    detector = Detector(family, budget=duration(budget), size=max(spec.height, spec.width))
    detector.fit(train[learn], hold_out=False)
    good = known.test.subset(known.test.labels == 0)
    both = concatenate([known.train.subset(others), good])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(both))[:MOST])
    both = both.subset(chosen)
    pixels = both.load(spec)
    scores = detector.score(pixels)
    odd = np.empty(0)
    if normal is None and spec.channels == 1:
        odd = detector.score(np.concatenate([
            corruptions.distort(kind, pixels[i :: len(corruptions.DISTORTIONS)], spec.value_max, seed)
            for i, kind in enumerate(corruptions.DISTORTIONS)
        ]))  # fmt: skip
    changed = {}
    for kind in CHANGES if changes else ():
        strength = found(detector, pixels[:TRIED], scores, kind, spec, seed)
        if strength is not None:
            changed[kind] = detector.score(altered(kind, pixels, strength, spec, seed))
    parts_of_each = of_one_part(both, known_parts)
    return Pool(detector.tensors["training.scores"], scores, parts_of_each, chosen >= len(others), odd, changed)


def parts_of_files(table: Path) -> dict[str, str]:
    """Which part each file shows, by its bare name: here the files lie in other folders than in the table."""
    return {Path(name).name: part for name, part in read_groups(table, "group").items()}


def of_one_part(images: ImageSet, parts: Mapping[str, str] | None) -> npt.NDArray[np.intp]:
    """(N,) numbers: equal for pictures of one part."""
    if parts is None:
        return np.arange(len(images))
    return np.unique([parts[Path(name).name] for name in images.names], return_inverse=True)[1]


def found(detector: Detector, pixels: Pixels, scores: Scores, kind: str, spec: InputSpec, seed: int) -> float | None:
    """The strength at which a change moves the mean score by `SHIFT`; None where even the strongest does not."""
    before, wanted = scores[: len(pixels)].mean(), SHIFT * scores.std()

    def moved(strength: float) -> bool:
        return bool(detector.score(altered(kind, pixels, strength, spec, seed)).mean() - before >= wanted)

    low, high = 0.0, 1.0
    if not moved(high):
        return None
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if moved(middle) else (middle, high)
    return high


CHANGES = ("brightness", "contrast", "blur", "noise")


def altered(kind: str, pixels: Pixels, strength: float, spec: InputSpec, seed: int) -> Pixels:
    """(N, H, W, C) -> the same, changed by a strength in 0..1."""
    values, full = pixels.astype(np.float32), float(spec.value_max)
    if kind == "brightness":
        values = values + strength * 0.5 * full
    elif kind == "contrast":
        mean = values.mean(axis=(1, 2, 3), keepdims=True)
        values = mean + (1 - 0.9 * strength) * (values - mean)
    elif kind == "noise":
        grain = np.random.default_rng(seed).standard_normal(values.shape, dtype=np.float32)
        values = values + np.float32(0.3 * strength * full) * grain
    else:
        reach = ImageFilter.GaussianBlur(4 * strength)
        for image, smooth in zip(pixels, values, strict=True):
            for c in range(image.shape[2]):
                smooth[..., c] = np.asarray(Image.fromarray(image[..., c]).filter(reach))
    changed: Pixels = np.clip(np.rint(values), 0, full).astype(spec.dtype)
    return changed

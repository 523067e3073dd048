"""Pools of scores of unseen normal images, on which decisions are evaluated; computed once per set and detector.

A detector is fitted on half of a set's normal training images. Its pool consists of the other half and the normal test
images, at most `MAX_IMAGES` of them. Changed versions of the pool's images are scored too.
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

FAMILIES = ("auto", "padim", "patchcore", "features", "dictionary", "rotation", "defects", "autoencoder")
MAX_IMAGES = 3000  # images in a pool
SHIFT = 0.5  # shift of the mean score by a change, in standard deviations of the scores
SEARCH_IMAGES = 200  # images used to search for the strength of a change
BISECTIONS = 7  # steps of the bisection


@dataclass(frozen=True)
class Pool:
    """Scores of one detector on unseen images."""

    training: Scores  # of its training images; empty where a detector has none
    normal: Scores  # (N,) of normal images outside the training set
    groups: npt.NDArray[np.intp]  # (N,) equal numbers for images of one part
    tested: npt.NDArray[np.bool_]  # (N,) true for images of the test split
    anomalous: Scores  # of distorted images; empty if none were distorted
    changed: Mapping[str, Scores]  # (N,) per change that shifts the mean by `SHIFT`


def load_pool(
    cache: Path, data_dir: Path | None, name: str, normal: str | None, family: str, seed: int, budget: str,
    groups_file: Path | None = None, changes: bool = False,
) -> Pool:  # fmt: skip
    """Return the pool of a data set and a family from the cache, computed first if missing; optionally with changes.

    `groups_file` is a CSV file whose column `group` tells which files show one part. Without it, every image is a part
    of its own.
    """
    if data_dir is None or not (data_dir / name / "train").is_dir():
        groups_file = None  # only images from folders have file names
    content = f"{name} {groups_file.read_text() if groups_file else ''}".encode()
    key = f"{Path(name).name}-{normal or 'all'}-{family}-{budget}-s{seed}"
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    whole, plain = (cache / f"{kind}-{key}-{digest}-{code_digest()}.npz" for kind in ("pool-changed", "pool"))
    path = whole if changes or whole.exists() else plain
    if not path.exists():
        say(f"{path.stem}: fitting and scoring")
        pool = compute_pool(data_dir, name, normal, family, seed, budget, groups_file, changes)
        path.parent.mkdir(parents=True, exist_ok=True)
        changed = {f"changed-{kind}": scores for kind, scores in pool.changed.items()}
        np.savez(
            path, allow_pickle=False, training=pool.training, normal=pool.normal, groups=pool.groups,
            tested=pool.tested, odd=pool.anomalous, **changed,
        )  # fmt: skip
    with np.load(path, allow_pickle=False) as arrays:
        changed = {key.removeprefix("changed-"): arrays[key] for key in arrays if key.startswith("changed-")}
        return Pool(arrays["training"], arrays["normal"], arrays["groups"], arrays["tested"], arrays["odd"], changed)


def compute_pool(
    data_dir: Path | None, name: str, normal: str | None, family: str, seed: int, budget: str, groups_file: Path | None,
    changes: bool,
) -> Pool:  # fmt: skip
    """Fit on half of the normal training images and score the others. Images of one part stay on one side."""
    folder = data_dir is not None and (data_dir / name / "train").is_dir()
    source = str(data_dir / name) if data_dir is not None and folder else name
    part_of = None if groups_file is None else parts_of_files(groups_file)
    data = open_dataset(source, normal=normal, data_dir=data_dir)
    spec = data.train.choose_spec(None)
    train = data.train.load(spec)
    train_index, others = split_groups(
        groups_of(data.train, part_of), [len(train) - len(train) // 2, len(train) // 2], seed
    )
    detector = Detector(family, budget=duration(budget), size=max(spec.height, spec.width))
    detector.fit(train[train_index], hold_out=False)
    good = data.test.subset(data.test.labels == 0)
    both = concatenate([data.train.subset(others), good])
    index = np.sort(np.random.default_rng(seed).permutation(len(both))[:MAX_IMAGES])
    both = both.subset(index)
    pixels = both.load(spec)
    scores = detector.score(pixels)
    anomalous = np.empty(0)
    if normal is None and spec.channels == 1:
        anomalous = detector.score(np.concatenate([
            corruptions.distort(kind, pixels[i :: len(corruptions.DISTORTIONS)], spec.value_max, seed)
            for i, kind in enumerate(corruptions.DISTORTIONS)
        ]))  # fmt: skip
    changed = {}
    for kind in CHANGES if changes else ():
        strength = find_strength(detector, pixels[:SEARCH_IMAGES], scores, kind, spec, seed)
        if strength is not None:
            changed[kind] = detector.score(altered(kind, pixels, strength, spec, seed))
    training = detector.tensors.get("training.scores", np.empty(0))
    return Pool(training, scores, groups_of(both, part_of), index >= len(others), anomalous, changed)


def parts_of_files(table: Path) -> dict[str, str]:
    """Map file names to parts. Folders are dropped, because here they differ from those in the CSV file."""
    return {Path(name).name: part for name, part in read_groups(table, "group").items()}


def groups_of(images: ImageSet, part_of: Mapping[str, str] | None) -> npt.NDArray[np.intp]:
    """Return (N,) group numbers, equal for images of one part."""
    if part_of is None:
        return np.arange(len(images))
    return np.unique([part_of[Path(name).name] for name in images.names], return_inverse=True)[1]


def find_strength(
    detector: Detector, pixels: Pixels, scores: Scores, kind: str, spec: InputSpec, seed: int
) -> float | None:
    """Return the strength at which a change shifts the mean score by `SHIFT`; None if none does."""
    before, target = scores[: len(pixels)].mean(), SHIFT * scores.std()

    def moved(strength: float) -> bool:
        return bool(detector.score(altered(kind, pixels, strength, spec, seed)).mean() - before >= target)

    low, high = 0.0, 1.0
    if not moved(high):
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if moved(middle) else (middle, high)
    return high


CHANGES = ("brightness", "contrast", "blur", "noise")


def altered(kind: str, pixels: Pixels, strength: float, spec: InputSpec, seed: int) -> Pixels:
    """Apply a change of a strength in 0..1 to images (N, H, W, C)."""
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

"""Checks of files, masks, image sizes, channels and bit depths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from oddlens.config.detectors import AutoSettings
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_set import ImageSet
from oddlens.data.preprocessing import choose_size
from oddlens.data.training_images import find_shrinking, input_size
from oddlens.errors import ImageError
from oddlens.evaluation.diagnosis import Diagnosis, counted
from oddlens.evaluation.mask_use import CONTRADICTING, EMPTY, mask_name, survey_masks
from oddlens.training.resolve import resolve_sides
from oddlens.training.tiling import choose_tiling, count_tiles


def check_left_out(diagnosis: Diagnosis) -> None:
    """List the files and folders that are not read, a note for each reason."""
    left_out = diagnosis.data.left_out
    diagnosis.facts["left_out"] = {reason: list(paths) for reason, paths in left_out.items()}
    for reason, paths in left_out.items():
        text = f"{counted(len(paths), 'file or folder', 'files and folders')} left out: {reason}"
        diagnosis.add("note", "left out", text, paths)


def check_readable(diagnosis: Diagnosis, part: str, images: ImageSet) -> ImageSet:
    """Report files that cannot be decoded as an error, and return the other images."""
    readable, problems = images.readable()
    diagnosis.facts[f"n_unreadable_{part}"] = len(problems)
    if problems:
        diagnosis.add(
            "error",
            "unreadable",
            f"{counted(len(problems), f'{part} image')} cannot be read, the first: {problems[0]}; repair or remove "
            "unreadable images, or skip them with --skip-unreadable",
            [problem.name for problem in problems],
        )
    return readable


def check_masks(diagnosis: Diagnosis, test: ImageSet) -> None:
    """Report masks that are unreadable, unclear, unused, empty, inverted or stretched, and images without a mask."""
    unused = diagnosis.data.unused_masks
    diagnosis.facts["n_stray_masks"] = n_stray = sum(map(len, unused.values()))
    if unused:
        reasons = "; ".join(f"{len(names)}, as {reason}" for reason, names in unused.items())
        text = f"{counted(n_stray, 'mask')} without a test image ({reasons}): name the mask of test/<defect>/<name> "
        stray = [name for names in unused.values() for name in names]
        diagnosis.add("warning", "stray masks", text + "ground_truth/<defect>/<name>_mask", stray)
    problems = [problem for masks in test.mask_sets for problem in masks.reading.problems.items()]
    for reason, names in problems:
        diagnosis.add("error", "unclear masks", f"masks cannot be used: {reason}", names)
    if problems:
        return
    errors: list[ImageError] = []
    use = survey_masks(test, errors)
    if errors:
        text = f"{counted(len(errors), 'mask')} cannot be read; repair or remove unreadable masks"
        diagnosis.add("error", "unreadable masks", text, [error.name for error in errors])
    for note in use.notes:
        diagnosis.add("note", "inverted masks", note)
    images = {mask_name(test, i): name for i, name in enumerate(test.names)}
    if empty := use.unused.get(EMPTY):
        text = f"{counted(len(empty), 'empty mask')}: images with an empty mask do not count for pixel metrics"
        diagnosis.add("note", "empty masks", text, [images[mask] for mask in empty])
    if contradicting := use.unused.get(CONTRADICTING):
        text = (
            f"{counted(len(contradicting), 'normal image')} with a mask that marks pixels: move the images or the masks"
        )
        diagnosis.add("warning", "masks of normal images", text, [images[mask] for mask in contradicting])
    if use.stretched:
        text = f"{counted(len(use.stretched), 'mask')} with another aspect ratio than their image: are they its masks?"
        diagnosis.add("warning", "stretched masks", text, use.stretched)
    if use.without_mask:
        text = f"{counted(len(use.without_mask), 'anomalous image')} without a mask do not count for pixel metrics"
        diagnosis.add("note", "no mask", text, use.without_mask)


def check_formats(diagnosis: Diagnosis, train: ImageSet, test: ImageSet) -> None:
    """Report mixed sizes and channels among the training images, and mixed bit depths among all images."""
    train_infos, test_infos = train.infos(), test.infos()
    check_sizes(diagnosis, train_infos)
    check_shrinking(diagnosis, (*train.names, *test.names), train_infos, test_infos)
    check_channels(diagnosis, train.names, train_infos)
    check_bit_depths(diagnosis, (*train.names, *test.names), (*train_infos, *test_infos))


def check_sizes(diagnosis: Diagnosis, infos: Sequence[ImageInfo]) -> None:
    """Report training images of several sizes, as a warning if their aspect ratios differ."""
    sizes = Counter((info.width, info.height) for info in infos)
    common = [{"width": w, "height": h, "n": n} for (w, h), n in sizes.most_common(10)]
    diagnosis.facts |= {"sizes": common, "n_sizes": len(sizes)}
    if len(sizes) < 2:
        return
    ratios = [width / height for width, height in sizes]
    text = f"the training images have {len(sizes)} sizes and are stretched to one"
    distorted = max(ratios) / min(ratios) > 1.5
    if distorted:
        text += (
            f"; their aspect ratios (width / height) range from {min(ratios):.2f} to {max(ratios):.2f}: crop them to "
            "one ratio for sharper maps"
        )
    diagnosis.add("warning" if distorted else "note", "mixed sizes", text)


def check_shrinking(
    diagnosis: Diagnosis, names: Sequence[str], train_infos: Sequence[ImageInfo], test_infos: Sequence[ImageInfo]
) -> None:
    """Report images that `fit`, without options, shrinks more than fourfold as a warning, with the files of some.

    `fit` tiles most large images instead, which is a fact of the diagnosis.
    """
    if not train_infos:
        return
    infos, sides = (*train_infos, *test_infos), resolve_sides(AutoSettings())
    canvas = choose_tiling(train_infos, "auto", None, sides, math.inf)
    if canvas is None:
        height, width = choose_size(train_infos, input_size(train_infos, None, sides))
    else:
        height, width, _ = canvas
    shrinking = find_shrinking(infos, (height, width))
    diagnosis.facts["input"] = {"width": width, "height": height}
    diagnosis.facts["tiles"] = 1 if canvas is None else count_tiles(canvas)
    diagnosis.facts["shrinking"] = {"n": 0, "factor": None}
    if shrinking is None:
        return
    diagnosis.facts["shrinking"] = {"n": len(shrinking.index), "factor": round(shrinking.factor, 2)}
    files = [names[i] for i in shrinking.index] if len(shrinking.index) < len(infos) else []
    diagnosis.add("warning", "shrinking", shrinking.text, files)


def check_channels(diagnosis: Diagnosis, names: Sequence[str], infos: Sequence[ImageInfo]) -> None:
    """Report a mixture of grey and colour training images as a warning, with the files of the rarer mode."""
    modes = ["colour" if info.channels == 3 else "grey" for info in infos]
    counts = Counter(modes)
    diagnosis.facts["modes"] = dict(counts)
    if len(counts) < 2:
        return
    rarer = min(counts, key=counts.__getitem__)
    text = f"{counts['grey']} grey and {counts['colour']} colour training images are mixed, perhaps from two cameras: "
    diagnosis.add(
        "warning",
        "mixed modes",
        text + "convert them to one mode, or fit a detector for each",
        [name for name, mode in zip(names, modes, strict=True) if mode == rarer],
    )


def check_bit_depths(diagnosis: Diagnosis, names: Sequence[str], infos: Sequence[ImageInfo]) -> None:
    """Report a mixture of 8-bit and 16-bit images as an error, with the files of the rarer depth."""
    depths = [info.bits for info in infos]
    counts = Counter(depths)
    diagnosis.facts["bits"] = {str(depth): count for depth, count in counts.items()}
    if len(counts) < 2:
        return
    rarer = min(counts, key=counts.__getitem__)
    diagnosis.add(
        "error",
        "mixed bit depths",
        f"{counts[8]} images of 8 bits and {counts[16]} of 16 bits are mixed: convert them to one bit depth",
        [name for name, depth in zip(names, depths, strict=True) if depth == rarer],
    )

"""Baseline without training: the distance of an image's thumbnail to the nearest normal thumbnail.

Its AUROC shows how much of a test set is trivial. The script prints JSON: the AUROC for thumbnails of 8 x 8 and 32 x 32
pixels, over all anomalies and by kind; "8" and "32" are plain, "8 normalised" and "32 normalised" are centered and
scaled to unit length. The latter are invariant to exposure: they match photographs of one part in different lighting.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cells import say
from tables import data_parser, parse

from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.errors import OddlensError
from oddlens.evaluation import test_sets
from oddlens.evaluation.baselines import THUMBNAIL_KINDS, make_thumbnails, nearest_distances
from oddlens.metrics import auroc
from oddlens.recipes import run


def aurocs(test: ImageSet, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return the AUROC of (N,) scores, over all anomalies and by kind."""
    kinds, normal = np.array(test.kinds), test.labels == 0
    of_kind = {}
    for kind in np.unique(kinds[~normal]):
        subset = normal | (kinds == kind)
        of_kind[str(kind)] = auroc(test.labels[subset], scores[subset])
    return {"image_auroc": auroc(test.labels, scores), "per_class": of_kind}


def main(words: list[str]) -> int:
    """Score a data set and print the JSON."""
    parser = data_parser(__doc__)
    parser.add_argument("source", help="folder or name of a data set")
    parser.add_argument("--normal", help="the class that is normal")
    parser.add_argument("--recipe", help="use the test images of this recipe: distorted and foreign ones")
    options = parse(parser, words)
    try:
        data = open_dataset(options.source, normal=options.normal, data_dir=options.data)
        spec, test = data.train.choose_spec(None), data.test
        if options.recipe:
            recipe = run.find_recipe(options.recipe)
            foreign = run.RecipeRun(recipe, Path(), options.data, log=say).load_foreign()
            test = test_sets.build_test_set(data, spec, recipe.training.seed, recipe.data.distort, foreign)
        train, test_pixels = data.train.load(spec), test.load(spec)
        result = {
            str(kind): aurocs(
                test, nearest_distances(make_thumbnails(train, kind, spec), make_thumbnails(test_pixels, kind, spec))
            )
            for kind in THUMBNAIL_KINDS
        }
    except OddlensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

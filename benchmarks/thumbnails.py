"""The trivial baseline: how far an image's thumbnail is from the nearest normal one, without learning anything.

What it reaches is what a table's test set gives away for nothing. It prints JSON: the AUROC for thumbnails of 8 x 8 and
of 32 x 32 pixels, over all anomalies and for each kind of them; "8" and "32" as they are, "8 normalised" and
"32 normalised" centred and scaled to one length. The latter see through exposure: where one part was photographed in
several lights, they find it again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cells import say

from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.errors import OddlensError
from oddlens.evaluation import test_sets
from oddlens.evaluation.baselines import THUMBNAIL_KINDS, make_thumbnails, nearest_distances
from oddlens.metrics import auroc
from oddlens.recipes import run


def aurocs(test: ImageSet, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """AUROC of (N,) scores, over all anomalies and by kind."""
    kinds, normal = np.array(test.kinds), test.labels == 0
    of_kind = {}
    for kind in np.unique(kinds[~normal]):
        shown = normal | (kinds == kind)
        of_kind[str(kind)] = auroc(test.labels[shown], scores[shown])
    return {"image_auroc": auroc(test.labels, scores), "per_class": of_kind}


def main(words: list[str]) -> int:
    """Score a set and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="folder or name of a data set")
    parser.add_argument("--normal", help="the class that is normal")
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--recipe", help="show what this recipe shows: distorted images and foreign ones")
    options = parser.parse_args(words)
    try:
        data = open_dataset(options.source, normal=options.normal, data_dir=options.data)
        spec, test = data.train.choose_spec(None), data.test
        if options.recipe:
            recipe = run.find_recipe(options.recipe)
            foreign = run.RecipeRun(recipe, Path(), options.data, say=say).foreign()
            test = test_sets.labelled_images(data, spec, recipe.training.seed, recipe.data.distort, foreign)
        learnt, shown = data.train.load(spec), test.load(spec)
        result = {
            str(kind): aurocs(
                test, nearest_distances(make_thumbnails(learnt, kind, spec), make_thumbnails(shown, kind, spec))
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

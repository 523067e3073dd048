"""PyOD's AutoEncoder and DeepSVDD on CIFAR-10's airplanes: flattened pixels and PyOD's defaults.

    python benchmarks/peers/pyod_cifar.py --model autoencoder --data DIR
    python benchmarks/peers/pyod_cifar.py --model deepsvdd --data DIR

Epochs, layers, batch size and scaling are PyOD's; `--epochs` is for smoke tests.
"""

from __future__ import annotations

import numpy as np
import pyod
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from raw import Clock, auroc, cifar, make_parser, print_json


def main() -> None:
    """Load, fit, score, and print the seconds of each step."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("autoencoder", "deepsvdd"), required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    np.random.seed(options.seed)  # noqa: NPY002 - DeepSVDD shuffles with it
    clock = Clock()
    pixels, test_pixels, anomalous = cifar(options.data, options.images)
    train, test = (each.reshape(len(each), -1).astype(np.float32) / 255 for each in (pixels, test_pixels))
    loading = clock.lap()
    if options.model == "autoencoder":
        epochs = {} if options.epochs is None else {"epoch_num": options.epochs}
        detector = AutoEncoder(random_state=options.seed, verbose=0, **epochs)
    else:
        epochs = {} if options.epochs is None else {"epochs": options.epochs}
        detector = DeepSVDD(train.shape[1], random_state=options.seed, verbose=0, **epochs)
    detector.fit(train)
    fitting = clock.lap()
    scores = detector.decision_function(test)
    print_json(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "auroc": auroc(scores, anomalous),
            "images_per_second": len(test) / clock.lap(),
            "versions": {"pyod": pyod.__version__, "torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()

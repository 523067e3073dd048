"""PyOD's AutoEncoder and DeepSVDD on CIFAR-10's airplanes: flattened pixels, and the defaults that it documents.

    python benchmarks/peers/pyod_cifar.py --model autoencoder --data DIR
    python benchmarks/peers/pyod_cifar.py --model deepsvdd --data DIR

Epochs, layers, batches and scaling are PyOD's; `--epochs` changes them only to try whether it runs.
"""

from __future__ import annotations

import numpy as np
import pyod
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from raw import Clock, auroc, cifar, options, tell


def main() -> None:
    """Load, fit, score, and say how long each took."""
    parser = options(__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("autoencoder", "deepsvdd"), required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    np.random.seed(asked.seed)  # noqa: NPY002 - DeepSVDD shuffles with it
    clock = Clock()
    pixels, test_pixels, odd = cifar(asked.data, asked.images)
    train, test = (each.reshape(len(each), -1).astype(np.float32) / 255 for each in (pixels, test_pixels))
    loading = clock.lap()
    if asked.model == "autoencoder":
        epochs = {} if asked.epochs is None else {"epoch_num": asked.epochs}
        detector = AutoEncoder(random_state=asked.seed, verbose=0, **epochs)
    else:
        epochs = {} if asked.epochs is None else {"epochs": asked.epochs}
        detector = DeepSVDD(train.shape[1], random_state=asked.seed, verbose=0, **epochs)
    detector.fit(train)
    fitting = clock.lap()
    scores = detector.decision_function(test)
    tell(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "auroc": auroc(scores, odd),
            "images_per_second": len(test) / clock.lap(),
            "versions": {"pyod": pyod.__version__, "torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()

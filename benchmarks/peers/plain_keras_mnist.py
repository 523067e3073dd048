"""The MNIST reference recipe as a plain Keras script, with the 99th percentile of the errors as threshold.

    python benchmarks/peers/plain_keras_mnist.py --data DIR

The log level is set before the import of TensorFlow, which reads it.
"""

from __future__ import annotations

import os

import numpy as np
from raw import Clock, make_parser, mnist, print_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from keras import layers

BATCH = 128


def network() -> keras.Model:
    """1-32, pool, 32-64, pool, 64-64 | up, 64-32, up, 32-1."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.UpSampling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.UpSampling2D(),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )


class Epochs(keras.callbacks.Callback):
    """Measures the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.seconds = Clock(), []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.clock.lap()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(self.clock.lap())


def main() -> None:
    """Load, fit, compute the threshold, and print the seconds of each step."""
    options = make_parser(__doc__.partition("\n")[0], epochs=10).parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    clock = Clock()
    digits = mnist(options.data)[: options.images, ..., None].astype("float32") / 255
    loading = clock.lap()
    model, epochs = network(), Epochs()
    model.compile(optimizer="adam", loss="binary_crossentropy")
    history = model.fit(digits, digits, batch_size=BATCH, epochs=options.epochs, verbose=0, callbacks=[epochs])
    fitting = clock.lap()
    rebuilt = model.predict(digits, batch_size=BATCH, verbose=0)
    threshold = np.percentile(np.square(digits - rebuilt).mean(axis=(1, 2, 3)), 99)
    print_json(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "seconds_epochs": epochs.seconds,
            "seconds_threshold": clock.lap(),
            "threshold": float(threshold),
            "loss": history.history["loss"][-1],
            "images": len(digits),
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        }
    )


if __name__ == "__main__":
    main()

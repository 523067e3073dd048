"""Short trainings of small autoencoders on images of 8 x 8 pixels, for the tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.models import registry
from oddlens.models.base import Model
from oddlens.training import loop
from oddlens.training.history import Progress

SPEC = InputSpec(height=8, width=8, channels=1)
CPU = torch.device("cpu")
STRIDED = AutoencoderSettings(widths=(4, 8), latent_dim=8, noise=0.05)
POOLING = AutoencoderSettings(architecture="pooling", widths=(8,))


def train_small(
    pixels: Pixels,
    folder: Path | None = None,
    *,
    resume: bool = False,
    epochs: int = 4,
    settings: AutoencoderSettings = STRIDED,
    progress: Progress | None = None,
    **changes: object,
) -> Model:
    """Train an autoencoder on pixels (N, 8, 8, 1); `changes` are other training settings."""
    training = TrainingSettings(epochs=epochs, batch_size=32).model_copy(update=changes)
    model = registry.build(settings, SPEC, training.seed)
    loop.train(model, pixels, training, CPU, folder=folder, resume=resume, progress=progress)
    return model


def flat_weights(model: Model) -> np.ndarray:
    """All tensors of a model as one vector."""
    return np.concatenate([tensor.numpy().ravel() for tensor in model.state_dict().values()])

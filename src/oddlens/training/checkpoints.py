"""Checkpoints of the last two epochs, from which a killed run continues to bitwise the same result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from oddlens.config.base import TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.errors import TrainingError
from oddlens.io.atomic import write_bytes
from oddlens.io.digests import digest
from oddlens.models.base import Model
from oddlens.training.history import HistoryRow
from oddlens.training.optim import Adam


def run_digest(model: Model, pixels: Pixels, settings: TrainingSettings) -> str:
    """Identify a run by family settings, input, region of interest, training settings, and the pixels themselves.

    With a constant learning rate the number of epochs is left out, so that a finished run can be continued for longer.
    """
    excluded = {"epochs"} if settings.schedule == "constant" else None
    texts = [
        repr(getattr(model, "settings", None)),
        model.spec.model_dump_json(),
        settings.model_dump_json(exclude=excluded),
    ]
    roi = model.roi.cpu().numpy().tobytes()
    return digest(["\n".join(texts).encode(), roi, np.ascontiguousarray(pixels).data])


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((folder / "checkpoints").glob(f"epoch-{'[0-9]' * 6}.safetensors"))


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints and the history of an earlier run from a folder."""
    for path in [*list_checkpoints(folder), folder / "history.jsonl"]:
        path.unlink(missing_ok=True)


def save_checkpoint(folder: Path, model: Model, optimizer: Adam, run: str, history: Sequence[HistoryRow]) -> None:
    """Write model and optimizer after an epoch, and remove all but the last two checkpoints."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in enumerate(optimizer.states):
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"run": run, "history": json.dumps(list(history)), "digest": content_digest(content)}
    write_bytes(folder / "checkpoints" / f"epoch-{len(history):06d}.safetensors", save(content, metadata))
    for old in list_checkpoints(folder)[:-2]:
        old.unlink(missing_ok=True)


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names and values, by which a damaged checkpoint is recognized."""
    return digest(part for name in sorted(tensors) for part in (name.encode(), tensors[name].numpy().data))


def load_checkpoint(folder: Path, model: Model, optimizer: Adam, run: str, epochs: int) -> list[HistoryRow]:
    """Restore the newest undamaged checkpoint. Returns its history, empty where there is none.

    Raises:
        TrainingError: the checkpoint was made with other settings or images, or has more epochs than requested.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue  # cut short by a power loss: the previous one is complete
        if metadata.get("digest") != content_digest(tensors):
            continue
        if metadata["run"] != run:
            raise TrainingError(
                f"{path}: was made with other settings or other images; run without --resume, or choose another --out"
            )
        history: list[HistoryRow] = json.loads(metadata["history"])
        if len(history) > epochs:
            raise TrainingError(
                f"{path}: has {len(history)} epochs and {epochs} were requested; request more, or run without --resume"
            )
        restore_state(model, optimizer, tensors)
        return history
    return []


def restore_state(model: Model, optimizer: Adam, tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into model and optimizer, whose memory layout stays."""
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for number, state in enumerate(optimizer.states):
        for name, tensor in state.items():
            tensor.copy_(tensors[f"optimizer.{number}.{name}"])

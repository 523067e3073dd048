"""What this code computes, as JSON: compared with what was recorded before the code was rearranged.

    OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python tests/compatibility/record.py scores.json

Everything goes through the command line, which stays the same: `scores` has what each family gives seeded pixels after
a short training, `files` what the two stored detectors give the same pixels, `eval` the metrics of those two on the
built-in data sets. `accelerated` has the scores of the families that an installed accelerator trains and scores.
Bitwise equality is to be expected on the same processor and the same PyTorch alone, which `machine` names.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
HALF = ["--false-alarm-rate", "0.0244"]  # holds out 40 of 80 images, as the default did when this was recorded
FITS = {
    "autoencoder": ["--detector", "autoencoder", "--epochs", "3", *HALF],
    "dictionary": ["--detector", "dictionary", *HALF],
    "transforms": ["--detector", "transforms", "--epochs", "2", *HALF],
    "defects": ["--detector", "defects", "--epochs", "2", *HALF],
    "crossfit": ["--detector", "dictionary", "--folds", "3"],
    "ensemble": ["--plan", str(HERE / "plan.json"), *HALF],
}
NEWER = {
    "guaranteed_rate", "n_calibration", "calibration_groups", "detection_rate_at_99", "n_scores_at_99", "lot",
    "alarms_p_value",
}  # fmt: skip
STORED = {"digits": HERE / "digits.safetensors", "tiles": HERE / "tiles.onnx"}


def oddlens(*arguments: str) -> str:
    """Run a command in this process; gives its stdout."""
    from oddlens.cli import app

    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()):
        app(list(arguments), standalone_mode=False)
    return stdout.getvalue()


def seeded_pixels(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey waves with noise, (count, 24, 24) uint8; every fourth image of another seed than 0 has a dark square."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:24, :24]
    phase = rng.integers(0, 8, (count, 1, 1))
    waves = 100 + 8 * ((rows + columns + phase) % 8) + 3 * (rows % 5)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (waves + rng.integers(0, 20, (count, 24, 24))).astype(np.uint8)
    if seed:
        pixels[::4, 6:14, 8:15] = 20
    return pixels


def scores(detector: Path, images: Path, verdicts: Path) -> list[float]:
    """The anomaly scores of a folder of images, with all their digits."""
    oddlens("score", str(detector), str(images), "-o", str(verdicts), "--threads", "1")
    with verdicts.open(newline="") as file:
        return [float(row["anomaly_score"]) for row in csv.DictReader(file)]


def metrics(detector: Path, data: str) -> dict[str, Any]:
    """The JSON of `eval`, without what differs from run to run and what is newer than the recording."""
    result: dict[str, Any] = json.loads(oddlens("eval", str(detector), data, "--json", "--threads", "1"))
    return {name: value for name, value in result.items() if name not in {"detector", "seconds"} | NEWER}


def record() -> dict[str, Any]:
    """Everything."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "normal.npy", seeded_pixels(80, 0))
        (folder / "new").mkdir()
        for number, pixels in enumerate(seeded_pixels(12, 1)):
            Image.fromarray(pixels).save(folder / "new" / f"{number:02}.png")
        found: dict[str, list[float]] = {}
        for name, options in FITS.items():
            part = folder / f"{name}.safetensors"
            oddlens("fit", str(folder / "normal.npy"), "-o", str(part), "--threads", "1", "--seed", "3", *options)
            found[name] = scores(part, folder / "new", folder / "v.csv")
        stored = {name: scores(path, folder / "new", folder / "v.csv") for name, path in STORED.items()}
    return {
        "machine": {"processor": processor(), "torch": torch.__version__, "numpy": np.__version__},
        "scores": found,
        "accelerated": {"autoencoder": found["autoencoder"]} if is_accelerated() else {},
        "files": stored,
        "eval": {name: metrics(path, name) for name, path in STORED.items()},
    }


def is_accelerated() -> bool:
    """Whether an accelerator trains and scores the autoencoder of `FITS`."""
    from oddlens.config.base import InputSpec
    from oddlens.config.detectors import AutoencoderSettings
    from oddlens.models.registry import build

    model = build(AutoencoderSettings(), InputSpec(height=24, width=24, channels=1), seed=0)
    return getattr(model, "accelerated", None) is not None


def processor() -> str:
    """What tells one kind of processor from another: its name and a digest of what it can do."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = hashlib.blake2b(values.get("flags", "").encode(), digest_size=4).hexdigest()
    return f"{values.get('model name', platform.machine())} {flags}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(record(), indent=1) + "\n")

"""anomalib, from scratch: trains and exports GANomaly or DRAEM, and scores files with its OpenVINO inferencer.

    python benchmarks/peers/anomalib_peer.py fit magnetic-tile --data DIR --out runs/peers/ganomaly-tile
    python benchmarks/peers/anomalib_peer.py fit cifar10-airplane --data DIR --out runs/peers/ganomaly-airplane
    python benchmarks/peers/anomalib_peer.py infer DIR/magnetic-tile/test --out runs/peers/ganomaly-tile

GANomaly trains as its own example configuration has it: at most 100 epochs of batches of 32, stopped when three in a
row do not raise the AUROC on the validation half of the *test* images, from which its threshold comes too. DRAEM takes
the 700 epochs of batches of 8 of its paper; it would download textures, and an empty folder of textures makes it take
noise instead. Both are cut off after `--minutes`. Pictures are 256 x 256, CIFAR-10's 32 x 32.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from anomalib import __version__
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Draem, Ganomaly
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from raw import Clock, auroc, cifar, options, tell
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"magnetic-tile": 256, "cifar10-airplane": 32}
WORKERS = 2
PATIENCE = {"ganomaly": 3, "draem": 20}
EPOCHS = {"ganomaly": 100, "draem": 700}
BATCHES = {"ganomaly": 32, "draem": 8}
PICTURES = (".jpg", ".jpeg", ".png")
WORK = "operations.json"  # beside the exported model


def airplane_folders(data: Path, folder: Path, images: int | None) -> Path:
    """CIFAR-10 written as pictures, airplanes being good."""
    train, test, odd = cifar(data, images)
    for pixels, places in ((train, ["train/good"] * len(train)), (test, np.where(odd, "test/odd", "test/good"))):
        for number, (picture, place) in enumerate(zip(pixels, places, strict=True)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / place / f"{number:05d}.png")
    return folder


def made(name: str, side: int, scratch: Path) -> Ganomaly | Draem:
    """The model, with the AUROC that decides when to stop."""
    watched = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    final = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    evaluator = Evaluator(val_metrics=[watched], test_metrics=[final])
    if name == "ganomaly":
        return Ganomaly(pre_processor=Ganomaly.configure_pre_processor((side, side)), evaluator=evaluator)
    textures = scratch / "no-textures"
    textures.mkdir()
    return Draem(dtd_dir=textures, pre_processor=Draem.configure_pre_processor((side, side)), evaluator=evaluator)


def operations(model: Ganomaly | Draem, side: int) -> int:
    """Operations of scoring one image; a multiplication with its addition is two."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.model(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def fit(asked, scratch: Path) -> None:
    """Train, test and export; the exported model scores every test file."""
    seed_everything(asked.seed)
    side, batch = SIDES[asked.source], min(BATCHES[asked.model], asked.images or BATCHES[asked.model])
    clock = Clock()
    if asked.source == "magnetic-tile":
        root = asked.data / "magnetic-tile"
    else:
        root = airplane_folders(asked.data, scratch / "airplanes", asked.images)
    writing = clock.lap()
    defects = sorted(each.name for each in (root / "test").iterdir() if each.name != "good")
    data = Folder(
        asked.source, "train/good", root, [f"test/{name}" for name in defects], "test/good",
        train_batch_size=batch, eval_batch_size=batch, num_workers=WORKERS, seed=asked.seed,
    )  # fmt: skip
    model = made(asked.model, side, scratch)
    engine = Engine(
        callbacks=[EarlyStopping("image_AUROC", patience=PATIENCE[asked.model], mode="max")],
        default_root_dir=scratch,
        accelerator="cpu",
        max_epochs=asked.epochs or EPOCHS[asked.model],
        max_time={"minutes": asked.minutes},
        enable_progress_bar=False,
        **({"limit_train_batches": 2, "limit_val_batches": 4, "limit_test_batches": 4} if asked.images else {}),
    )
    engine.fit(model=model, datamodule=data)
    fitting, epochs = clock.lap(), engine.trainer.current_epoch
    own = engine.test(model=model, datamodule=data)[0]
    clock.lap()
    exported = engine.export(model=model, export_type=ExportType.OPENVINO, export_root=asked.out)
    exporting = clock.lap()
    work = {"operations_per_image": operations(model, side)}
    (asked.out / WORK).write_text(json.dumps(work), encoding="utf-8")
    tell(
        {
            "seconds_load": writing,
            "seconds_fit": fitting,
            "seconds_export": exporting,
            "epochs": epochs,
            "auroc_own": own["image_AUROC"],
            **inferred(exported, root / "test", asked),
            **work,
            "versions": {"anomalib": __version__, "torch": torch.__version__},
        }
    )


def inferred(model: Path, folder: Path, asked) -> dict[str, object]:
    """Score every picture below a folder, one file after the other, as the inferencer takes them."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)[: asked.images]
    inferencer = OpenVINOInferencer(model, device="CPU", config={"INFERENCE_NUM_THREADS": asked.threads})
    precision = inferencer.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    clock, seconds, scores, verdicts = Clock(), [], [], []
    for _ in range(asked.passes):
        found = [inferencer.predict(file) for file in files]
        seconds.append(clock.lap())
        scores = [float(each.pred_score.item()) for each in found]
        verdicts = [bool(each.pred_label.item()) for each in found]
        clock.lap()
    odd = np.array([file.parent.name != "good" for file in files])
    return {
        "auroc": auroc(np.array(scores), odd) if 0 < odd.sum() < len(odd) else None,
        "flagged": float(np.mean(verdicts)),
        "distinct_scores": len(set(scores)),
        "files": len(files),
        "seconds_pass": seconds,
        "images_per_second": len(files) / float(np.median(seconds[1:] or seconds)),
        "precision": precision,
    }


def infer(asked) -> None:
    """Score a folder with what `fit` exported."""
    exported = next(asked.out.rglob("model.xml"))
    work = json.loads((asked.out / WORK).read_text(encoding="utf-8"))
    tell({**inferred(exported, Path(asked.source), asked), **work, "versions": {"anomalib": __version__}})


def main() -> None:
    """Read the command line, and do as it says in a scratch folder: the inferencer keeps a cache where it stands."""
    parser = options(__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("fit", "infer"))
    parser.add_argument("source", help=f"{' or '.join(SIDES)}; for infer, a folder of pictures")
    parser.add_argument("--model", choices=tuple(EPOCHS), default="ganomaly")
    parser.add_argument("--out", type=Path, required=True, help="where the exported model lies")
    parser.add_argument("--minutes", type=int, default=30, help="training is cut off after so many")
    parser.add_argument("--passes", type=int, default=3, help="over the files; the first of several only warms up")
    asked = parser.parse_args()
    asked.out = asked.out.resolve()
    asked.data = Path(asked.data).resolve() if asked.data else None
    asked.source = str(Path(asked.source).resolve()) if asked.what == "infer" else asked.source
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        os.chdir(scratch)
        if asked.what == "fit":
            fit(asked, Path(scratch))
        else:
            infer(asked)


if __name__ == "__main__":
    main()

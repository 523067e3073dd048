"""anomalib without pretrained weights: train a model, and score files (GANomaly's exported, with OpenVINO).

    python benchmarks/peers/anomalib_peer.py fit DIR/magnetic-tile --out runs/peers/ganomaly-tile
    python benchmarks/peers/anomalib_peer.py infer DIR/magnetic-tile/test --out runs/peers/ganomaly-tile
    python benchmarks/peers/anomalib_peer.py fit DIR/bottle --model patchcore --rows 10241 --out runs/peers/patchcore

GANomaly is trained as in its example configuration: at most 100 epochs with batch size 32, stopped when three epochs
in a row do not raise the AUROC on the validation half of the *test* images, which also gives the threshold, or after
`--minutes`. Images are 256 x 256. PatchCore and PaDiM have a ResNet-18 with random weights, since the pretrained ones
come from a server: their speed can be compared, and their AUROC says nothing. With `--random-bank`, the rows of
PatchCore's bank are drawn instead of selected, which takes a quarter of an hour: scoring is as fast, fitting is not.
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
from anomalib.data import Folder, PredictDataset
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Ganomaly, Padim, Patchcore
from anomalib.models.components import KCenterGreedy
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from raw import Clock, auroc, make_parser, print_json
from torch.utils.data import ConcatDataset, DataLoader
from torch.utils.flop_counter import FlopCounterMode

SIDE, STRIDE = 256, 8  # of the images, and of the places of PatchCore
WORKERS = 2
PATIENCE, EPOCHS, BATCH = 3, 100, 32
SUFFIXES = (".jpg", ".jpeg", ".png")
WORK = "operations.json"  # next to the exported model


def build_model(options) -> Ganomaly | Padim | Patchcore:
    """Return the model, with the AUROC that GANomaly uses for early stopping."""
    monitored = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    final = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    evaluator = Evaluator(val_metrics=[monitored], test_metrics=[final])
    common = {"pre_processor": Ganomaly.configure_pre_processor((SIDE, SIDE)), "evaluator": evaluator}
    if options.model == "ganomaly":
        return Ganomaly(**common)
    common |= {"backbone": "resnet18", "pre_trained": False, "visualizer": False}
    if options.model == "padim":
        return Padim(**common)
    images = sum(1 for path in (options.source / "train/good").iterdir() if path.suffix.lower() in SUFFIXES)
    return Patchcore(coreset_sampling_ratio=options.rows / (images * (SIDE // STRIDE) ** 2), **common)


def draw_rows(sampler: KCenterGreedy) -> list[int]:
    """Return as many random rows as the sampler would select."""
    return torch.randperm(sampler.n_observations)[: sampler.coreset_size].tolist()


def operations(model: Ganomaly | Padim | Patchcore) -> int:
    """Return the operations of scoring one image; a multiply-add is two."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.model(torch.zeros(1, 3, SIDE, SIDE))
    return int(counter.get_total_flops())


def build_engine(options, scratch: Path) -> Engine:
    """Return the trainer, with early stopping; `--images` also limits the batches."""
    trained = options.model == "ganomaly"
    return Engine(
        callbacks=[EarlyStopping("image_AUROC", patience=PATIENCE, mode="max")] if trained else [],
        default_root_dir=scratch,
        accelerator="cpu",
        max_epochs=(options.epochs or EPOCHS) if trained else 1,
        max_time={"minutes": options.minutes},
        enable_progress_bar=False,
        **({"limit_train_batches": 2, "limit_val_batches": 4, "limit_test_batches": 4} if options.images else {}),
    )


def fit(options, scratch: Path) -> None:
    """Train and test; then score every test file, with the exported model where it is GANomaly's."""
    seed_everything(options.seed)
    if options.random_bank:
        KCenterGreedy.select_coreset_idxs = draw_rows
    batch, root = min(BATCH, options.images or BATCH), options.source
    clock = Clock()
    defects = sorted(item.name for item in (root / "test").iterdir() if item.name != "good")
    data = Folder(
        root.name, "train/good", root, [f"test/{name}" for name in defects], "test/good",
        train_batch_size=batch, eval_batch_size=batch, num_workers=WORKERS, seed=options.seed,
    )  # fmt: skip
    model = build_model(options)
    engine = build_engine(options, scratch)
    engine.fit(model=model, datamodule=data)
    fitting, epochs = clock.lap(), engine.trainer.current_epoch
    test_metrics = engine.test(model=model, datamodule=data)[0]
    clock.lap()
    test, exporting = root / "test", 0.0
    if options.model == "ganomaly":
        exported = engine.export(model=model, export_type=ExportType.OPENVINO, export_root=options.out)
        exporting = clock.lap()
        scored = score_files(exported, test, options)
    else:
        scored = predict(engine, model, test, options)
    work = {"operations_per_image": operations(model)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / WORK).write_text(json.dumps(work), encoding="utf-8")
    print_json(
        {
            "seconds_fit": fitting,
            "seconds_export": exporting,
            "epochs": epochs,
            "auroc_own": test_metrics["image_AUROC"],
            **scored,
            **work,
            "versions": {"anomalib": __version__, "torch": torch.__version__},
        }
    )


def score_files(model: Path, folder: Path, options) -> dict[str, object]:
    """Score all images below a folder, one file at a time as the inferencer does."""
    files = find_files(folder, options)
    inferencer = OpenVINOInferencer(model, device="CPU", config={"INFERENCE_NUM_THREADS": options.threads})
    precision = inferencer.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    clock, seconds, scores, verdicts = Clock(), [], [], []
    for _ in range(options.passes):
        predictions = [inferencer.predict(file) for file in files]
        seconds.append(clock.lap())
        scores = [float(item.pred_score.item()) for item in predictions]
        verdicts = [bool(item.pred_label.item()) for item in predictions]
        clock.lap()
    return measured(files, scores, seconds) | {
        "flagged": float(np.mean(verdicts)),
        "distinct_scores": len(set(scores)),
        "precision": precision,
    }


def predict(engine: Engine, model: Padim | Patchcore, folder: Path, options) -> dict[str, object]:
    """Score all images below a folder with PyTorch, in batches: PatchCore's export takes exactly two images."""
    files = find_files(folder, options)
    loader = DataLoader(
        ConcatDataset([PredictDataset(path=file) for file in files]),
        batch_size=BATCH, num_workers=WORKERS, collate_fn=PredictDataset(path=files[0]).collate_fn,
    )  # fmt: skip
    clock, seconds, scores = Clock(), [], []
    for _ in range(options.passes):
        batches = engine.predict(model=model, dataloaders=loader)
        seconds.append(clock.lap())
        scores = [float(score) for batch in batches for score in batch.pred_score]
    return measured(files, scores, seconds) | {"precision": "float32"}


def measured(files: list[Path], scores: list[float], seconds: list[float]) -> dict[str, object]:
    """Return the AUROC of the scores, and the speed of all passes but the first."""
    anomalous = np.array([file.parent.name != "good" for file in files])
    return {
        "auroc": auroc(np.array(scores), anomalous) if 0 < anomalous.sum() < len(anomalous) else None,
        "files": len(files),
        "seconds_pass": seconds,
        "images_per_second": len(files) / float(np.median(seconds[1:] or seconds)),
    }


def find_files(folder: Path, options) -> list[Path]:
    """Return the images below a folder; `--images` limits their number."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[: options.images]


def infer(options) -> None:
    """Score a folder with the model exported by `fit`."""
    exported = next(options.out.rglob("model.xml"))
    work = json.loads((options.out / WORK).read_text(encoding="utf-8"))
    print_json({**score_files(exported, options.source, options), **work, "versions": {"anomalib": __version__}})


def main() -> None:
    """Run the command in a temporary folder, because the inferencer writes a cache to the working directory."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("fit", "infer"))
    parser.add_argument("source", type=Path, help="data set in MVTec's layout; for infer, a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is written")
    parser.add_argument("--model", choices=("ganomaly", "padim", "patchcore"), default="ganomaly")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of PatchCore's memory bank")
    parser.add_argument("--random-bank", action="store_true", help="draw these rows at random")
    parser.add_argument("--minutes", type=int, default=30, help="maximum training time in minutes")
    parser.add_argument("--passes", type=int, default=3, help="passes over the files, the first a warm-up")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.source = options.source.resolve()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        os.chdir(scratch)
        if options.what == "fit":
            fit(options, Path(scratch))
        else:
            infer(options)


if __name__ == "__main__":
    main()

"""A batch: a detector, a manifest of images, and a folder of verdict files, one for each shard of the manifest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oddlens.artifact.detector_file import read_file
from oddlens.batch.image_manifest import ImageManifest
from oddlens.batch.shard_files import brightness_of, read_verified, shard_path, verdict_table, write_shard
from oddlens.batch.shards import Shard, images_per_shard, read_source
from oddlens.batch.workers import Engine, Team
from oddlens.conformal.exceedance import DEFAULT_MAX_ANOMALOUS
from oddlens.conformal.lot import Lot
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, ImageError, SettingsError
from oddlens.inference.scoring import batch_size
from oddlens.io.atomic import PARTIAL_FILES, translate_os_errors
from oddlens.io.own_folder import lock, read_marker, write_marker

if TYPE_CHECKING:
    import pyarrow as pa

N_FIRST_IMAGES = 8  # that are looked for before anything is scored
N_LISTED_ERRORS = 10
MEMORY = "memory://"


@dataclass(eq=False)
class BatchSummary:
    """What a batch has scored so far."""

    lot: Lot
    n: int = 0
    n_anomalous: int = 0
    n_errors: int = 0
    resumed: int = 0  # images that an earlier run had scored
    errors: list[tuple[int, str, str]] = field(default_factory=list)  # the first of all: shard's index, file, error
    replaced: list[str] = field(default_factory=list)  # verdict files that were damaged
    deaths: int = 0  # of workers
    started: float | None = None  # of `time.perf_counter`: when the first worker was ready

    @property
    def n_normal(self) -> int:
        """Number of images with the verdict "normal"."""
        return self.n - self.n_anomalous - self.n_errors

    @property
    def first_errors(self) -> list[tuple[str, str]]:
        """File and error of the first images that could not be scored, in the manifest's order."""
        return [(name, error) for _, name, error in self.errors]

    def add(self, table: pa.Table, shard: Shard) -> None:
        """Count the verdicts on a shard; shards come in whatever order they are done."""
        scores = table.column("anomaly_score").to_numpy()
        good = ~np.isnan(scores)
        self.n += len(table)
        self.n_anomalous += int(np.nansum(table.column("label").to_numpy()))
        groups = [shard.groups[i] for i in np.flatnonzero(good)] if shard.groups else ()
        brightness = brightness_of(table)
        self.lot.add(scores[good], groups, None if brightness is None else brightness[good])
        if not good.all():
            bad = table.filter(table.column("error").is_valid())
            self.n_errors += len(bad)
            files, errors = bad.column("file").to_pylist(), bad.column("error").to_pylist()
            self.errors += [(shard.index, *pair) for pair in zip(files, errors, strict=True)]
            self.errors = sorted(self.errors, key=itemgetter(0))[:N_LISTED_ERRORS]


class BatchJob:
    """A detector, a manifest, and the folder that gets the verdicts.

    With `retry_errors`, shards with errors are scored again.

    Raises:
        DataNotFoundError: the detector or the manifest does not exist.
        ArtifactError: one of them is damaged or foreign.
        SettingsError: the detector is not an exported one, has no threshold for these images, or `max_anomalous` is no
            such share.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(
        self,
        detector: Path,
        manifest: Path,
        folder: Path,
        max_anomalous: float = DEFAULT_MAX_ANOMALOUS,
        retry_errors: bool = False,
    ) -> None:
        self.manifest, self.folder, self.retry_errors = ImageManifest(manifest), folder, retry_errors
        if detector.suffix != ".onnx":
            raise SettingsError(f"{detector}: batches are scored by exported detectors: run `oddlens export` first")
        self.name, self.content = str(detector), read_file(detector)
        self.detector = Detector.load(detector, device="cpu", threads=1, content=self.content)
        self.uses_groups = self.detector.decisions_.grouped
        if self.uses_groups and not self.manifest.groups:
            raise SettingsError(
                f"{detector}: has a threshold for each group, and {manifest} has no groups: make it again with "
                "`oddlens manifest --group-by`"
            )
        groups = self.manifest.groups if self.uses_groups else ()
        self.detector.decisions_.check_images(len(groups) or 1, groups)
        self.summary = BatchSummary(Lot(self.detector.decisions_, max_anomalous))
        self.images_per_shard = images_per_shard(self.manifest.n_images, batch_size(self.detector.spec))
        self.n_shards = -(-self.manifest.n_images // self.images_per_shard)

    @property
    def identity(self) -> dict[str, str]:
        """What all verdict files of a folder have in common; errors use the keys as names."""
        return {
            "detector or threshold": self.detector.manifest.digest,
            "manifest": self.manifest.digest,
            "runtime": self.detector.backend.name,
            "number of images in a shard": str(self.images_per_shard),
        }

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder this batch's own, for the time of a run without others, and clear away what a kill left.

        Raises:
            ArtifactError: it has another batch's verdicts, or another run is writing them.
            SettingsError: it has verdict files that this is not known to have written.
            OddlensError: it cannot be written to.
        """
        with translate_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder) as is_free:
            if not is_free:
                raise ArtifactError(
                    f"{self.folder}: another run is writing to this folder; wait for it, or choose another"
                )
            marker = read_marker(self.folder)
            earlier = marker.get("batch")
            if earlier is None and (foreign := next(self.folder.glob("*.parquet"), None)):
                raise SettingsError(f"{foreign}: is not a verdict file of this batch; choose an empty folder with -o")
            self._refuse_other_batch(earlier)
            if earlier is None:
                write_marker(self.folder, marker | {"batch": self.identity})
            for path in self.folder.glob(PARTIAL_FILES):
                path.unlink(missing_ok=True)
            yield

    def _refuse_other_batch(self, earlier: object) -> None:
        if earlier is None or earlier == self.identity:
            return
        values = earlier if isinstance(earlier, dict) else {}
        differences = [name for name, value in self.identity.items() if values.get(name) != value]
        raise ArtifactError(
            f"{self.folder}: has verdicts of a batch with a different {', a different '.join(differences)}; choose "
            "another folder with -o, or repeat that batch's arguments to finish it"
        )

    def run(self, engine: Engine, say: Callable[[str], None] = lambda note: None) -> Generator[BatchSummary]:
        """Score what is not done yet, inside `claim`; yields the summary after each shard, and at the end.

        `say` is called where something takes long.

        Raises:
            DataNotFoundError: none of the first images is there as the manifest says.
            OddlensError: a verdict file cannot be written, or as `Team.score`.
        """
        team = Team(engine, self.detector.backend.name, say)
        with contextlib.closing(team.score(self._pending())) as scored:
            for shard, scores in scored:
                table = verdict_table(self.detector, shard, scores)
                write_shard(shard_path(self.folder, shard.index), table, self._origin(shard))
                self.summary.add(table, shard)
                self.summary.deaths, self.summary.started = team.deaths, team.started
                yield self.summary
        yield self.summary

    def _origin(self, shard: Shard) -> dict[str, str]:
        """What the verdict file of a shard is made from."""
        return self.identity | {"shard": shard.digest}

    def _pending(self) -> Iterator[Shard]:
        """The shards without a verified verdict file; the others are counted."""
        is_first = True
        for shard in self.manifest.shards(self.images_per_shard, str(Path.cwd()), self.uses_groups):
            path = shard_path(self.folder, shard.index)
            table = read_verified(path, shard, self._origin(shard))
            if table is not None and not (self.retry_errors and table.column("error").null_count < len(table)):
                self.summary.add(table, shard)
                self.summary.resumed += len(shard)
                continue
            if table is None and path.exists():
                self.summary.replaced.append(path.name)
            if is_first:
                check_first_images(shard)
            is_first = False
            yield shard


def check_first_images(shard: Shard) -> None:
    """Refuse a manifest whose images are elsewhere, before all of them become errors.

    Raises:
        DataNotFoundError: none of the first images can be read as the manifest says.
        DataError: the place where one lies cannot be reached.
    """
    first = range(min(len(shard), N_FIRST_IMAGES))
    problems = []
    for i in first:
        if shard.files[i].startswith(MEMORY):
            raise SettingsError(f"{shard.files[i]}: lies in the memory of one process; write it to a file first")
        try:
            source = read_source(shard, i)
            if isinstance(source, bytes) or os.path.exists(source):  # noqa: PTH110 - Path.exists refuses long names
                return
            problems.append(f"{shard.files[i]}: does not exist")
        except ImageError as error:
            problems.append(str(error))
    raise DataNotFoundError(
        f"{problems[0]}, and so for all of the first {len(problems)} images; run this where the manifest's paths lead "
        "to its images, or make it again with `oddlens manifest`"
    )

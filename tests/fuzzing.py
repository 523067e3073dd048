"""Fuzzing of everything that reads a user's files, guided by the lines of Python that an input reaches first.

    python tests/fuzzing.py image --seconds 600 --keep tests/survival/findings

Inputs are seeds that were changed at random; one that reaches a new line is changed further. An input passes if it is
read, or refused with an `OddlensError` of one line, within `MAX_SECONDS` and `MAX_MEMORY`. The first one that does
anything else is kept as a file, and the exit code is 1. Compiled code is not traced, so that fuzzing it is blind.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import pickle
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dataset_files import idx_bytes, python2_pickle
from PIL import Image

from oddlens.batch.batch_job import check_first_images
from oddlens.batch.image_manifest import ImageManifest
from oddlens.batch.remote_files import is_url
from oddlens.batch.shards import ShardImages
from oddlens.config.recipe import load_recipe
from oddlens.data.csv_files import read_rows
from oddlens.data.groups import assign_groups
from oddlens.data.image_io import decode, probe
from oddlens.data.image_set import ImageSet
from oddlens.data.masks import read_mask
from oddlens.data.sources.cifar import BATCHES, read_cifar
from oddlens.data.sources.idx import read_idx
from oddlens.errors import OddlensError

MAX_SECONDS = 20  # for one input
MAX_MEMORY = 3 * 2**30  # bytes that all of them may take: an image of the most pixels takes 1.3 GiB
MAX_BYTES = 2**16  # of an input
BOUNDARIES = (0, 1, 2, 3, 4, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)

Read = Callable[[bytes, Path], None]  # reads an input; the folder is for those that must be files


class Target(NamedTuple):
    """A reader, valid inputs, and what its format is made of."""

    read: Read
    seeds: list[bytes]
    tokens: tuple[bytes, ...]


# -- targets ------------------------------------------------------------------------------------------


def image_target() -> Target:
    """`decode` and `probe`, which must agree, and `read_mask`."""

    def read(content: bytes, folder: Path) -> None:
        info, pixels = probe(content), decode(content)
        if pixels.shape != (info.height, info.width, info.channels):
            raise AssertionError(f"probe says {info}, decode gives {pixels.shape}")
        path = folder / "mask"
        path.write_bytes(content)
        read_mask(path)

    rng = np.random.default_rng(0)
    colour, deep = rng.integers(0, 256, (9, 11, 3), np.uint8), rng.integers(0, 65536, (9, 11), np.uint16)
    grey = Image.fromarray(colour[..., 0])
    shown = Image.fromarray(colour)
    images: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (shown, "PNG", {}),
        (shown, "JPEG", {}),
        (shown, "JPEG", {"progressive": True, "exif": exif(6)}),
        (shown.convert("CMYK"), "JPEG", {}),
        (shown, "BMP", {}),
        (shown, "WEBP", {}),
        (shown, "WEBP", {"lossless": True, "exif": exif(3)}),
        (shown, "GIF", {}),
        (shown, "PPM", {}),
        (Image.fromarray(deep), "PNG", {}),
        (Image.fromarray(deep), "TIFF", {}),
        (Image.fromarray(deep), "PPM", {}),
        (shown.convert("P"), "PNG", {"transparency": 3}),
        (shown.convert("RGBA"), "PNG", {"exif": exif(8)}),
        (grey.convert("1"), "PNG", {}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (grey.convert("1"), "BMP", {}),
        *((shown, "TIFF", {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ]
    seeds = []
    for image, kind, options in images:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    tokens = (
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"eXIf",
        b"iTXt",
        b"acTL",
        b"IEND",
        b"\xff\xd8",
        b"\xff\xc0",
        b"II*\0",
    )
    return Target(read, seeds, (*tokens, b"MM\0*", b"RIFF", b"VP8X", b"VP8L", b"Exif\0\0", b"GIF89a", b"P5\n", b"P6\n"))


def exif(orientation: int) -> Image.Exif:
    """EXIF data that say how an image is rotated."""
    data = Image.Exif()
    data[274] = orientation
    return data


def idx_target() -> Target:
    """`read_idx`, plain and gzipped."""
    plain = [idx_bytes(np.arange(size, dtype=np.uint8).reshape(shape)) for size, shape in ((60, (5, 4, 3)), (7, (7,)))]

    def read(content: bytes, folder: Path) -> None:
        for name, bytes_ in (("x", content), ("x.gz", gzip.compress(content, 0)), ("raw.gz", content)):
            (folder / name).write_bytes(bytes_)
            for ndim in (1, 3):
                tolerate(read_idx, folder / name, ndim)

    return Target(read, [*plain, *map(gzip.compress, plain)], (b"\0\0\x08\x03", b"\0\0\x08\x01", b"\x1f\x8b\x08"))


def cifar_target() -> Target:
    """`read_cifar`: a binary batch, a pickled one, and an archive, whose compression is valid."""
    rng = np.random.default_rng(0)
    data, labels = rng.integers(0, 256, (2, 3072), np.uint8), [3, 9]
    binary = np.hstack([np.array(labels, np.uint8)[:, None], data]).tobytes()
    small, pickled = pickle.dumps({"data": data, "labels": labels}, 4), python2_pickle(data, labels)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name in BATCHES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = 3073
            file.addfile(member, io.BytesIO(binary[:3073]))

    def read(content: bytes, folder: Path) -> None:
        for kind, suffix, others in (("binary", ".bin", binary), ("pickled", "", binary[:0] or pickled)):
            batches = folder / kind
            if not batches.exists():
                batches.mkdir()
                for name in BATCHES:
                    (batches / f"{name}{suffix}").write_bytes(others)
            (batches / f"data_batch_1{suffix}").write_bytes(content)
            tolerate(read_cifar, batches)
        (folder / "cifar.tar.gz").write_bytes(gzip.compress(content, 0))
        tolerate(read_cifar, folder / "cifar.tar.gz")

    tokens = (
        b"\x80\x04\x95",
        b"cnumpy\ndtype\n",
        b"numpy",
        b"_reconstruct",
        b"ustar\x0000",
        b"\x85R",
        b"b.",
        b"s.",
        b"u.",
    )
    return Target(read, [binary, small, pickled, archive.getvalue()], tokens)


def csv_target() -> Target:
    """`read_rows`, and groups by a column of a CSV file."""
    images = ImageSet(
        names=("a.png", "b.png"), kinds=("", ""), labels=np.zeros(2, np.int8), images=(b"", b""), masks=(None, None)
    )
    text = 'file,group,label\na.png,"x, y",0\nb.png,z,1\n'
    seeds = [text.encode(), text.replace(",", ";").encode("utf-16"), b'sep=\t\n"file"\t"group"\na.png\tx\n', b"file\n"]

    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.csv"
        path.write_bytes(content)
        tolerate(read_rows, path, ("file", "group"))
        tolerate(assign_groups, images, f"{path}:group")

    return Target(
        read, seeds, (b"sep=;\n", b'"', b'""', b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\r\n", b",", b";", b"PK\3\4")
    )


def recipe_target() -> Target:
    """`load_recipe`."""
    folder = Path(__file__).parent.parent / "src" / "oddlens" / "recipes"
    seeds = [path.read_bytes() for path in sorted(folder.glob("*.toml"))]

    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.toml"
        path.write_bytes(content)
        load_recipe(path)

    words = (b"[[model.members]]\n", b"[a.b]\n", b"family = ", b"'ensemble'", b'"""', b"{a={", b"[[", b"1e400", b"nan")
    return Target(read, seeds, (*words, b"-inf", b"0x", b"9" * 30, b"2020-01-01", b"\\u0000", b"= [", b"epochs = "))


def manifest_target() -> Target:
    """`ImageManifest`, its shards, and their images: of a Parquet file, and of one with the input's cells."""

    def read(content: bytes, folder: Path) -> None:
        path = folder / "m.parquet"
        path.write_bytes(content)
        tolerate(read_manifest, path)
        pq.write_table(table_of(content), path, write_statistics=False)
        tolerate(read_manifest, path)

    rows = {
        "file": ["a.png", "../b.png"] * 20,
        "size": [1, None] * 20,
        "version": ["2", None] * 20,
        "group": ["x"] * 40,
    }
    seeds = []
    for options in ({"use_dictionary": False}, {"use_dictionary": True}, {"compression": "gzip", "row_group_size": 20}):
        buffer = io.BytesIO()
        pq.write_table(pa.table(rows), buffer, **options)
        seeds.append(buffer.getvalue())
    cells = [
        b"file,size,version,group\na.png,\x01,2,x\n../b.png,\0,\0,y",
        b"file\na.png\n",
        b"file,file\na,b",
        b"path\na",
    ]
    tokens = (b"file", b"size", b"group", b"/dev/zero", b"..", b"\0", b"\x1b[2J", b"\xff", b"://", b"memory://", b"\r")
    return Target(
        read, [*seeds, *cells], (*tokens, b"\n", b",", b"PAR1", b"ARROW:schema", b"oddlens", b"\x15\0", b"a" * 500)
    )


def table_of(content: bytes) -> pa.Table:
    """Rows of cells, whose first row has the columns' names; a column of other text than UTF-8 stays as it is."""
    names, *rows = (line.split(b",") for line in content.split(b"\n"))
    columns = []
    for i, name in enumerate(names):
        cells = [row[i] if i < len(row) else None for row in rows]
        if name == b"size":
            columns.append(pa.array([None if cell is None else int.from_bytes(cell[:7]) for cell in cells], pa.int64()))
        else:
            columns.append(pa.array(cells, pa.binary()).view(pa.string()))
    return pa.Table.from_arrays(columns, [name.decode(errors="replace") for name in names])


def read_manifest(path: Path) -> None:
    """Read a manifest and its first images, but nothing at a URL."""
    manifest = ImageManifest(path)
    for with_groups in (False, True):
        for shard in islice(manifest.shards(48, str(path.parent), with_groups), 3):
            images = ShardImages.of(shard)
            if not any(map(is_url, shard.files)):
                tolerate(check_first_images, shard)
                for i in range(min(4, len(shard))):
                    tolerate(images.image, i)


TARGETS = {
    "image": image_target,
    "idx": idx_target,
    "cifar": cifar_target,
    "csv": csv_target,
    "recipe": recipe_target,
    "manifest": manifest_target,
}


def tolerate(function: Callable[..., object], *arguments: object) -> None:
    """Call a reader; its own errors are right if they are of one line."""
    try:
        function(*arguments)
    except OddlensError as error:
        if "\n" in str(error) and function is not load_recipe:
            raise AssertionError(f"an error of several lines: {error}") from error


# -- fuzzing ------------------------------------------------------------------------------------------


class Lines:
    """The lines of Python that were reached, as numbers of a function's code."""

    def __init__(self) -> None:
        self.reached = set[tuple[int, int]]()
        self.codes: list[object] = []  # keeps the functions alive, whose addresses are their numbers

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """For `sys.settrace`."""
        place = (id(frame.f_code), frame.f_lineno)
        if place not in self.reached:
            self.reached.add(place)
            self.codes.append(frame.f_code)
        return self.trace


def mutate(parent: bytes, corpus: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """An input with some random changes."""
    data = bytearray(parent)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        place, kind = rng.randrange(len(data) + 1), rng.randrange(8)
        end = min(len(data), place + rng.choice((1, 2, 4, 8, 30, 200)))
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * rng.choice((1, 1, 2, 50))
        elif kind == 4:
            data[place : place + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(BOUNDARIES))
        elif kind == 5:
            token = rng.choice(tokens)
            data[place : place + rng.choice((0, len(token)))] = token
        elif kind == 6:
            other = rng.choice(corpus)
            data[place:] = other[rng.randrange(len(other) + 1) :]
        else:
            del data[place:]
    content = bytes(data[:MAX_BYTES])
    return with_checksums(content) if content.startswith(b"\x89PNG") and rng.random() < 0.8 else content


def with_checksums(content: bytes) -> bytes:
    """A PNG file with the right checksum of each chunk, which a decoder verifies first."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def alarm(*_: object) -> None:
    """Report an input that takes too long."""
    raise TimeoutError(f"it took more than {MAX_SECONDS} s")


def check(target: Target, content: bytes, folder: Path, as_errors: bool) -> None:
    """Read one input; raises whatever is not right. With `as_errors`, warnings of decoders are errors."""
    signal.alarm(MAX_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error" if as_errors else "ignore")
            target.read(content, folder)
    except OddlensError:
        pass
    finally:
        signal.alarm(0)


def fuzz(name: str, seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    """Fuzz a target; gives what was done."""
    target, rng, lines = TARGETS[name](), random.Random(seed), Lines()
    corpus, runs, started = list(target.seeds), 0, time.monotonic()
    limit_memory()
    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as temporary:
        current = Path(temporary) / "current"  # of an input that ends the process
        for content in iter(lambda: mutate(rng.choice(corpus), corpus, target.tokens, rng), None):
            if time.monotonic() - started > seconds:
                break
            content = corpus[runs] if runs < len(target.seeds) else content
            current.write_bytes(content)
            runs, before, as_errors = runs + 1, len(lines.reached), rng.random() < 0.5
            sys.settrace(lines.trace)
            try:
                check(target, content, Path(temporary), as_errors)
            except BaseException as error:
                sys.settrace(None)
                digest = hashlib.sha256(content).hexdigest()[:12]
                (keep / f"{name}-{digest}").write_bytes(content)
                problem = f"{type(error).__name__}: {str(error)[:300]}"
                return {"target": name, "runs": runs, "finding": f"{name}-{digest}", "problem": problem}
            finally:
                sys.settrace(None)
            if len(lines.reached) > before and runs > len(target.seeds):
                corpus.append(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    elapsed = round(time.monotonic() - started, 1)
    added = len(corpus) - len(target.seeds)
    return {
        "target": name, "seconds": elapsed, "runs": runs, "kept": added, "lines": len(lines.reached), "peak_mib": peak
    }  # fmt: skip


def limit_memory() -> None:
    """Let an allocation beyond the limit fail."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_MEMORY, hard))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path())
    options = parser.parse_args()
    results = [fuzz(name, options.seconds, options.seed, options.keep) for name in options.targets]
    for result in results:
        print(json.dumps(result))
    return int(any("finding" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())

"""Damaged, truncated and malicious data files raise one clear DataError, and nothing in them is run.

Pickled CIFAR batches are the only pickles that oddlens reads; `oddlens.data.sources.cifar` defines what they may
contain.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlens.data.open import open_dataset, open_images
from oddlens.data.sources import arrays, cifar, idx
from oddlens.data.sources.cifar import BATCHES, read_cifar
from oddlens.data.sources.idx import read_idx
from oddlens.errors import DataError, DataNotFoundError, OddlensError

DATA = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
LABELS = [3, 0, 9, 1]
GOOD = {protocol: pickle.dumps({"data": DATA, "labels": LABELS}, protocol) for protocol in (3, 4, 5)}
IDX = struct.pack(">HBB3I", 0, 8, 3, 5, 6, 7) + bytes(range(210))


def cifar_folder(folder: Path, content: bytes) -> Path:
    """Write five valid batches, and this one as the third."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in BATCHES:
        (folder / name).write_bytes(GOOD[4])
    (folder / "data_batch_3").write_bytes(content)
    return folder


def refused(folder: Path, content: bytes) -> str:
    """The batch is refused with a short one-line error that names it; returns the line."""
    with pytest.raises(DataError) as raised:
        read_cifar(cifar_folder(folder, content))
    message = str(raised.value)
    assert message.startswith(f"{folder / 'data_batch_3'}: ")
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 300
    return message


class CallOnUnpickling:
    """Its pickle is a call of the given function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


# Pickles


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_calls_the_system_is_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    command = f"touch {trace}"
    for attack in (
        CallOnUnpickling(os.system, command),
        {"data": DATA, "labels": LABELS, "extra": CallOnUnpickling(os.system, command)},
    ):
        content = pickle.dumps(attack, protocol)
        message = refused(tmp_path / "cifar", content)
        assert "delete it and download it again" in message
        assert not trace.exists()
    pickle.loads(content)  # the attack works if it is run
    assert trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "getattr"),
        ("posix", "system"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "encode"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__reduce__"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("oddlens.data.sources.cifar", "_ArrayStub"),
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, module: str, name: str) -> None:
    by_line = f"c{module}\n{name}\n.".encode()
    by_stack = (
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93."
    )
    for content in (by_line, by_stack):
        assert f"it refers to {module}.{name}" in refused(tmp_path, content)


def test_arrays_of_objects_and_of_other_types_are_refused(tmp_path: Path) -> None:
    for data in (np.array([[None] * 3072]), DATA.astype(np.float32), DATA.astype("V4"), DATA.view("S3")):
        assert "a type other than bytes" in refused(tmp_path, pickle.dumps({"data": data, "labels": [1]}, 4))


def test_changes_of_a_pickle_to_the_stubs_do_not_last(tmp_path: Path) -> None:
    for name in ("numpy\ndtype", "numpy._core.multiarray\n_reconstruct", "numpy._core.numeric\n_frombuffer"):
        # BUILD with (None, {"__defaults__": (...), "__doc__": ...}) sets attributes of any object.
        state = b"N}(X\x0c\x00\x00\x00__defaults__K\x01K\x02\x86X\x07\x00\x00\x00__doc__K\x01u\x86b"
        refused(tmp_path, f"c{name}\n".encode() + state + b".")
    (images, labels), _ = read_cifar(cifar_folder(tmp_path, GOOD[5]))
    np.testing.assert_array_equal(images[8], DATA[0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert labels.tolist() == LABELS * 5


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("missing bytes", b"B\xff\xff\xff\xff."),
        ("missing text", b"X\xff\xff\xff\xff."),
        ("a bytearray of an exabyte", b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"."),
        ("a frame of an exabyte", b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N."),
        ("the two billionth memo", b"Nr\xff\xff\xff\x7f."),
        ("a long of 2 GB", b"\x8b\xff\xff\xff\x7f."),
        ("an opcode that does not exist", b"\xff."),
        ("another process's memory", b"\x80\x05\x97."),
        ("a persistent object", b"Pname\n."),
        ("an extension", b"\x82\x01."),
        ("an old-style instance", b"(ios\nsystem\n."),
        ("nothing on the stack", b"R."),
        ("no end", b"N" * 1000),
        ("nothing", b""),
    ],
)
def test_pickles_that_declare_or_need_too_much_are_refused(tmp_path: Path, what: str, content: bytes) -> None:
    refused(tmp_path, content)


def test_keys_that_take_forever_to_hash_are_refused(tmp_path: Path) -> None:
    doubled = b"Nq\x00" + b"h\x00\x86q\x00" * 80  # a pair of a pair of a pair...: 2**80 leaves
    assert "a key that is not text" in refused(tmp_path, b"}(" + doubled + b"Nu.")


def test_arrays_of_inconsistent_shapes_are_refused(tmp_path: Path) -> None:
    cases: dict[str, object] = {
        "not (N, 3072)": {"data": DATA[:, :100], "labels": LABELS},
        "and 3 labels": {"data": DATA, "labels": LABELS[:3]},
        "range from -1 to 9": {"data": DATA, "labels": [-1, 0, 9, 1]},
        "range from 0 to 10": {"data": DATA, "labels": [0, 0, 10, 1]},
        "KeyError: 'labels'": {"data": DATA, "fine_labels": LABELS},
        "not a pickle of arrays only": [DATA, LABELS],
        "no attribute": {"data": "none", "labels": LABELS},
        "cannot be interpreted as an integer": {"data": DATA, "labels": "3091"},
    }
    for message, batch in cases.items():
        assert message in refused(tmp_path, pickle.dumps(batch, 4))
    one_short = (
        GOOD[3]
        .replace(bytes(DATA.tobytes()), DATA.tobytes()[:-1])
        .replace(struct.pack("<I", DATA.size), struct.pack("<I", DATA.size - 1))
    )
    refused(tmp_path, one_short)


def test_a_batch_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_BATCH_BYTES", 20_000)
    assert "it has over 20,000 bytes" in refused(tmp_path, GOOD[4] + bytes(20_000))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_truncated_anywhere_is_refused(tmp_path: Path, protocol: int) -> None:
    content = GOOD[protocol]
    ends = [*range(150), *range(150, len(content) - 60, 1999), *range(len(content) - 60, len(content))]
    for end in ends:
        refused(tmp_path, content[:end])


@given(
    st.sampled_from([3, 4, 5]), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6)
)
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_give_pixels_or_a_data_error(protocol: int, flips: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD[protocol])
    for place, value in flips:  # the opcodes before and after the pixels
        content[place - 80] = value
    try:
        images, labels = cifar._read_pickle(bytes(content), "batch")
    except DataError:
        return
    assert images.dtype == np.uint8
    assert images.shape == (len(labels), 32, 32, 3)


# Archives and binary batches


def archive_of(path: Path, members: dict[str, bytes | str]) -> Path:
    """A .tar.gz of files (bytes) and symbolic links (str)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_never_writes_to_disk(tmp_path: Path) -> None:
    names = [f"../../{name}" for name in BATCHES[:3]] + [f"{tmp_path}/{name}" for name in BATCHES[3:]]
    path = archive_of(tmp_path / "a.tar.gz", dict.fromkeys(names, GOOD[4]))
    (images, _), _ = read_cifar(path)
    assert len(images) == 20
    assert list(tmp_path.iterdir()) == [path]
    assert not any((tmp_path.parent.parent / name).exists() for name in BATCHES)


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(GOOD[4])
    members: dict[str, bytes | str] = dict.fromkeys(BATCHES, GOOD[4])
    members["data_batch_2"] = str(tmp_path / "secret")
    with pytest.raises(DataError, match="does not contain data_batch_2; delete it"):
        read_cifar(archive_of(tmp_path / "a.tar.gz", members))


def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.tar.gz", dict.fromkeys(BATCHES, GOOD[4]))
    whole = path.read_bytes()
    for end in (0, 1, 10, 100, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"a\.tar\.gz"):
            read_cifar(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        read_cifar(path)
    path.write_bytes(gzip.compress(b"no archive at all " * 100))
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        read_cifar(path)


def test_an_archive_that_decompresses_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_ARCHIVE_BYTES", 2**20)
    path = archive_of(tmp_path / "a.tar.gz", {"zeros": bytes(2**21), **dict.fromkeys(BATCHES, GOOD[4])})
    with pytest.raises(DataError, match="it decompresses to over 1,048,576 bytes"):
        read_cifar(path)


def test_binary_batches_of_wrong_length_or_with_wrong_labels_are_refused(tmp_path: Path) -> None:
    records = np.hstack([np.array(LABELS, dtype=np.uint8)[:, None], DATA]).tobytes()
    for name in BATCHES:
        (tmp_path / f"{name}.bin").write_bytes(records)
    assert len(read_cifar(tmp_path)[0][0]) == 20
    for content, message in (
        (records[:-1], "not a multiple of 3,073"),
        (b"", "not a multiple of 3,073"),
        (b"\x0a" + records[1:], "to 10"),
    ):
        (tmp_path / "data_batch_4.bin").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_cifar(tmp_path)


# IDX


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_truncated_anywhere_or_too_long_is_refused(tmp_path: Path, gzipped: bool) -> None:
    whole = gzip.compress(IDX) if gzipped else IDX
    path = tmp_path / ("images.gz" if gzipped else "images")
    path.write_bytes(whole)
    assert read_idx(path, 3).shape == (5, 6, 7)
    assert read_idx(path, 3)[4, 5, 6] == 209
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"is not a valid IDX file \(.+\); delete it and download it again"):
            read_idx(path, 3)
    path.write_bytes(gzip.compress(IDX + b"x") if gzipped else IDX + b"x")
    with pytest.raises(DataError, match="declares 210 bytes, but it has more"):
        read_idx(path, 3)


def test_files_that_are_not_idx_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images"
    for content in (
        b"<html><body>404</body></html>" * 20,
        gzip.compress(IDX),  # without the suffix .gz
        struct.pack(">HBB3I", 0, 13, 3, 5, 6, 7) + bytes(840),  # floats
        struct.pack(">HBBI", 0, 8, 1, 210) + bytes(210),  # labels
        struct.pack("<HBB3I", 0, 3, 8, 5, 6, 7) + bytes(210),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="header is not that of an array of bytes with 3 dimensions"):
            read_idx(path, 3)


def test_idx_that_declares_more_than_fits_in_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(DataError, match=r"declares [\d,]+ bytes, over the limit of 1,073,741,824"):
        read_idx(path, 3)


def test_a_gzip_bomb_is_not_decompressed_beyond_its_declared_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(IDX[:16] + bytes(2**24)))
    read: list[int] = []
    original = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        read.append(size or -1)
        return original(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="declares 210 bytes, but it has more"):
        read_idx(path, 3)
    assert sum(read) == 4 + 12 + 211
    assert min(read) > 0


def test_flipped_bits_in_gzip_are_detected(tmp_path: Path) -> None:
    whole = gzip.compress(IDX)
    path = tmp_path / "images.gz"
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        with pytest.raises(DataError, match="is not a valid IDX file"):
            read_idx(path, 3)


def test_labels_that_do_not_match_the_images_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(IDX)
    for labels in (bytes(4), bytes([0, 1, 2, 3, 10])):
        for part in ("train", "t10k"):
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels)
        with pytest.raises(DataError, match=f"has {len(labels)} labels for 5 images of 10 classes"):
            open_dataset("mnist", data_dir=tmp_path)


# NumPy's files


def test_arrays_of_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    attack = np.array([CallOnUnpickling(os.system, f"touch {tmp_path / 'trace'}")], dtype=object)
    np.save(tmp_path / "a.npy", attack, allow_pickle=True)
    np.savez(tmp_path / "b.npz", allow_pickle=True, images=attack)
    images = np.zeros((1, 8, 8), np.uint8)
    np.savez(tmp_path / "c.npz", allow_pickle=True, x_train=images, y_train=attack, x_test=images, y_test=attack)
    (tmp_path / "d.npy").write_bytes(pickle.dumps(CallOnUnpickling(os.system, f"touch {tmp_path / 'trace'}")))
    for name in "a.npy", "b.npz", "c.npz", "d.npy":
        with pytest.raises(DataError, match=rf"{name}: is not a valid \.np. file \(.+\); save it again"):
            open_dataset(tmp_path / name)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_truncated_and_other_array_files_are_refused(tmp_path: Path, name: str) -> None:
    path, array = tmp_path / name, np.arange(640, dtype=np.uint8).reshape(10, 8, 8)
    if name == "a.npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, array)
    whole = path.read_bytes()
    for content in (*(whole[:end] for end in range(0, len(whole), 7)), b"text\n" * 100, bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(DataError) as raised:
            open_dataset(path)
        assert "\n" not in str(raised.value)


def test_array_files_that_declare_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }\n"
    forged = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)
    (tmp_path / "a.npy").write_bytes(forged)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("images.npy", forged)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(DataError, match="is not a valid"):
            open_dataset(tmp_path / name)
    np.savez_compressed(tmp_path / "c.npz", np.zeros((100, 100, 100), dtype=np.uint8))
    monkeypatch.setattr(arrays, "MAX_BYTES", 10**6)
    with pytest.raises(DataError, match=r"decompresses to 1,000,\d+ bytes, over the limit of 1,000,000"):
        open_dataset(tmp_path / "c.npz")


# Folders


def test_a_pipe_among_the_images_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataNotFoundError, match="contains no images"):
        open_images([tmp_path])
    _, problems = open_images([tmp_path / "a.png"]).readable()
    assert [problem.name for problem in problems] == [str(tmp_path / "a.png")]


def test_a_thousand_links_between_folders_are_walked_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"f{i}" for i in range(30)]
    for folder in folders:
        folder.mkdir()
        (folder / "a.png").write_text("?")
        for other in folders:
            (folder / f"to {other.name}").symlink_to(other)
    assert len(open_images([tmp_path])) == 30


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0b", "~", "/dev/null", "/dev/zero", "http://example.com/a.zip", "-", "mnist "]
)
def test_any_invalid_source_raises_an_oddlens_error(name: str) -> None:
    with pytest.raises(OddlensError):
        open_dataset(name)
    with pytest.raises(OddlensError):
        open_images([name]).image(0)


def test_limits_admit_the_published_files() -> None:
    assert cifar.MAX_BATCH_BYTES > 31_036_193
    assert cifar.MAX_ARCHIVE_BYTES > 6 * 31_036_193 + 20_000
    assert idx.MAX_BYTES > 47_040_016

"""Digests recognize equal content, however it is divided."""

from __future__ import annotations

import hashlib

import numpy as np

from oddlens.io.digests import digest


def test_a_digest_is_blake2b_of_all_parts_together() -> None:
    expected = hashlib.blake2b(b"oddlens", digest_size=16).hexdigest()
    assert digest([b"odd", b"", b"lens"]) == digest([b"oddlens"]) == expected


def test_arrays_are_digested_without_a_copy_of_their_bytes() -> None:
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    assert digest([array.data]) == digest([array.tobytes()])
    assert digest([array.data]) != digest([array.T.copy().data])


def test_no_part_is_the_empty_content() -> None:
    assert digest([]) == digest([b""]) != digest([b"\0"])

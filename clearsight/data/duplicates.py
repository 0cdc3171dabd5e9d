"""Pictures that are there twice: exact copies by their bytes, near ones by a perceptual signature.

It must not know splits' meaning for training, nor print anything: `check` judges what is found here.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import allow_infinities

SIGNATURE_SIDE = 16
NEAR_CORRELATION = 0.99
_SIGNATURE_CORRELATION = 0.997
_COMPONENTS = 12
_CHUNK_VALUES = 2**22
_MIN_VALUES = 16
_NEIGHBOURS = 8
_COMPARED_SIDE = 64

Pairs = NDArray[np.int64]


def rows_at_once(images: NDArray[np.generic]) -> int:
    """How many pictures to look at together, so that some tens of megabytes are enough."""
    return max(1, _CHUNK_VALUES // max(1, int(images[0].size)))


def find_blank(images: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which pictures (N, H, W, C) are of one colour: every channel constant, (N,)."""
    found, step = np.empty(len(images), bool), rows_at_once(images) if len(images) else 1
    for start in range(0, len(images), step):
        block = images[start : start + step]
        found[start : start + step] = (block == block[:, :1, :1]).all(axis=(1, 2, 3))
    return found


def find_copies(images: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """Groups of two or more rows whose pictures (N, H, W, C) are equal byte by byte, by first row.

    Blank pictures and ones of fewer than 16 values are left out: they are equal without being copies.
    """
    if images[0].size < _MIN_VALUES:
        return []
    hashes = hash_rows(images)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(counts[inverse] > 1)
    candidates = candidates[~find_blank(images[candidates])]
    groups: dict[bytes, list[int]] = {}
    for row in candidates:
        groups.setdefault(hashlib.sha256(images[row].tobytes()).digest(), []).append(int(row))
    return [np.array(rows) for rows in groups.values() if len(rows) > 1]


def hash_rows(images: NDArray[np.generic]) -> NDArray[np.uint64]:
    """A 64-bit hash of each picture's bytes, (N,); unequal pictures rarely share one."""
    n, size = len(images), images[0].nbytes
    words = -(-size // 8)
    factors = np.random.default_rng(0).integers(0, 2**64, words, np.uint64) | np.uint64(1)
    found = np.empty(n, np.uint64)
    step = rows_at_once(images)
    for start in range(0, n, step):
        rows = np.ascontiguousarray(images[start : start + step]).reshape(-1).view(np.uint8).reshape(-1, size)
        padded = np.zeros((len(rows), words * 8), np.uint8)
        padded[:, :size] = rows
        mixed = padded.view(np.uint64) * factors
        mixed ^= mixed >> np.uint64(29)
        found[start : start + step] = mixed.sum(axis=1, dtype=np.uint64)
    return found


def average_rows(length: int, parts: int) -> NDArray[np.float32]:
    """(parts, length): how much of each of `length` cells lies in each of `parts` equal pieces; rows sum to 1."""
    edges = np.arange(parts + 1) * length / parts
    cells = np.arange(length)
    cover = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.clip(cover, 0, None) * parts / length, np.float32)


def build_signatures(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """Perceptual signatures (N, 256) of pictures (N, H, W, C): grey, averaged to 16x16, mean 0 and length 1.

    The dot product of two is their correlation: it does not change with brightness, contrast, size or JPEG quality.
    Blank pictures get zeros.
    """
    n, height, width, _ = images.shape
    down, across = average_rows(height, SIGNATURE_SIDE), average_rows(width, SIGNATURE_SIDE)
    found = np.empty((n, SIGNATURE_SIDE**2), np.float32)
    step, largest = rows_at_once(images), 1.0
    for start in range(0, n, step):
        grey = images[start : start + step].mean(axis=3, dtype=np.float32)
        largest = max(largest, float(np.abs(grey).max()))
        found[start : start + step] = (down @ grey @ across.T).reshape(len(grey), -1)
    found -= found.mean(axis=1, keepdims=True)
    with allow_infinities():  # a picture of infinite length resembles no other
        length = np.sqrt((found * found).sum(axis=1, keepdims=True))
    blank = length <= 1e-3 * largest
    return np.asarray(found / np.where(blank, np.inf, length), np.float32)


def _correlations(images: NDArray[np.generic], pairs: Pairs) -> NDArray[np.float64]:
    """Of the pixels of each pair of pictures, seen at no more than 64x64, (P,)."""
    height, width = images.shape[1:3]
    down, across = (average_rows(s, min(s, _COMPARED_SIDE)) for s in (height, width))
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), 256):
        chosen = pairs[start : start + 256]
        sides = []
        for k in (0, 1):
            seen = down @ images[chosen[:, k]].astype(np.float32).transpose(0, 3, 1, 2) @ across.T
            flat = seen.reshape(len(chosen), -1).astype(np.float64)
            sides.append(flat - flat.mean(axis=1, keepdims=True))
        left, right = sides
        norm = np.sqrt((left * left).sum(axis=1) * (right * right).sum(axis=1))
        found[start : start + 256] = (left * right).sum(axis=1) / np.maximum(norm, 1e-12)
    return found


def find_near_copies(images: NDArray[np.generic]) -> Pairs:
    """Pairs of rows (P, 2), ascending, whose pictures look the same without being equal byte by byte.

    A k-d tree over the first principal components of the signatures gives the candidates, at most the eight nearest of
    each picture (of exact copies the first stands for all); those whose signatures correlate by 0.997 and whose pixels by
    0.99 are taken.
    """
    from scipy.spatial import cKDTree

    none = np.zeros((0, 2), np.int64)
    if images[0].size < _MIN_VALUES or min(images.shape[1:3]) < 4:
        return none
    signatures = build_signatures(images)
    _, singles = np.unique(hash_rows(images), return_index=True)  # one of each: copies would crowd out the rest
    rows = np.sort(singles[np.abs(signatures[singles]).sum(axis=1) > 0])
    if len(rows) < 2:
        return none
    some = signatures[rows[:: max(1, len(rows) // 5000)]]
    _, axes = np.linalg.eigh(some.T @ some)
    points = signatures[rows] @ axes[:, -_COMPONENTS:]
    radius = float(np.sqrt(2 * (1 - _SIGNATURE_CORRELATION)))
    found: Any = cKDTree(points).query(points, k=min(_NEIGHBOURS + 1, len(rows)), distance_upper_bound=radius)
    distances, near = found
    first, at = np.nonzero(np.isfinite(distances))
    pairs = np.stack([rows[first], rows[near[first, at]]], axis=1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    if len(pairs) == 0:
        return none
    close = np.einsum("ij,ij->i", signatures[pairs[:, 0]], signatures[pairs[:, 1]]) >= _SIGNATURE_CORRELATION
    pairs = pairs[close]
    pairs = pairs[_correlations(images, pairs) >= NEAR_CORRELATION]
    unequal = np.array([not np.array_equal(images[a], images[b]) for a, b in pairs], bool)
    return np.asarray(pairs[unequal])

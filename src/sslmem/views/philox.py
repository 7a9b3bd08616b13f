"""Random numbers by counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A view's numbers are a function of (seed, sample key, view index) alone, so they do not depend on batches, order,
workers or restarts, and adding views or samples later leaves the earlier ones as they were.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HIGH_SHIFT = np.uint64(32)


def philox(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Encrypts each 128-bit counter with its 64-bit key in ten rounds.

    Args:
        counter: ``[..., 4]``.
        key: ``[..., 2]``, broadcast against the counter.

    Returns:
        ``[..., 4]`` random 32-bit words.
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key[..., 0], key[..., 1]
    with np.errstate(over="ignore"):  # arithmetic modulo 2^32 is the algorithm
        for _ in range(10):
            p0 = _MULTIPLIERS[0] * c0.astype(np.uint64)
            p1 = _MULTIPLIERS[1] * c2.astype(np.uint64)
            c0, c2 = (
                (p1 >> _HIGH_SHIFT).astype(np.uint32) ^ c1 ^ k0,
                (p0 >> _HIGH_SHIFT).astype(np.uint32) ^ c3 ^ k1,
            )
            c1, c3 = (p1 & _LOW).astype(np.uint32), (p0 & _LOW).astype(np.uint32)
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def words(seed: int, keys: Sequence[str], indices: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """Draws random 32-bit words ``[N, V, count]`` for N sample keys and V indices below 2^32."""
    blocks = -(-count // 4)
    digests = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    key = np.frombuffer(digests, dtype="<u4").reshape(-1, 1, 1, 2)  # [N, 1, 1, 2]
    counter = np.empty((1, len(indices), blocks, 4), dtype=np.uint32)  # [1, V, B, 4]
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = indices[:, None]
    counter[..., 2], counter[..., 3] = seed & 0xFFFFFFFF, seed >> 32
    return philox(counter, key).reshape(len(keys), len(indices), 4 * blocks)[..., :count]


def uniforms(seed: int, keys: Sequence[str], views: range, count: int) -> NDArray[np.float64]:
    """Draws numbers uniform in (0, 1) for views of samples.

    Args:
        seed: 0 <= seed < 2^64.
        keys: the N sample keys.
        views: the V view indices.
        count: how many numbers each view needs.

    Returns:
        ``[N, V, count]``.
    """
    indices = np.arange(views.start, views.stop, views.step)
    numbers: NDArray[np.float64] = (words(seed, keys, indices, count).astype(np.float64) + 0.5) / 2.0**32
    return numbers

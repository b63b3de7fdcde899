"""Random numbers that depend on a seed, a stream and a row alone, not on workers or restarts.

Philox (Salmon et al., 2011) is a counter-based generator: it computes number n of a stream from n
alone. The seed and the stream's name are its key. Every row has a fixed range of the counter.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

_VALUES_PER_COUNT = 4  # Philox 4x64 makes four 64-bit numbers of one count


def uniform_latents(
    seed: int, rows: Sequence[int] | np.ndarray, dim: int, *, stream: str
) -> np.ndarray:
    """Draw one latent for each row, uniform in [-1, 1]: f32 [len(rows), dim].

    A row gets the same values whatever other rows are asked for. Consecutive rows are drawn
    together, which is fast.

    >>> both = uniform_latents(0, [7, 8], 3, stream="example")
    >>> alone = uniform_latents(0, [8], 3, stream="example")
    >>> (both[1] == alone[0]).all().item()
    True
    """
    rows = np.asarray(rows, dtype=np.int64)
    counts_per_row = -(-dim // _VALUES_PER_COUNT)
    latents = np.empty((len(rows), dim), dtype=np.float32)
    start = 0
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        if len(run):
            first = int(run[0]) * counts_per_row
            raw = _random_bits(seed, stream, len(run) * counts_per_row, first_count=first)
            latents[start : start + len(run)] = _to_unit_box(raw.reshape(len(run), -1)[:, :dim])
        start += len(run)
    return latents


@functools.lru_cache(maxsize=4)  # consecutive steps ask for the same epoch
def permutation(seed: int, epoch: int, count: int, of: str = "") -> np.ndarray:
    """Return a random order of `count` things for one epoch: i64 [count], read-only.

    `of` names the things, so that others get another order. The result is a function of the
    arguments alone: random keys are sorted, because NumPy promises that the stream of a bit
    generator never changes, but not how `Generator.permutation` uses it (NEP 19).

    >>> sorted(permutation(seed=0, epoch=3, count=4).tolist())
    [0, 1, 2, 3]
    """
    bits = _random_bits(seed, f"order/{epoch}{of}", -(-count // _VALUES_PER_COUNT))
    order = np.argsort(bits[:count], kind="stable")
    order.setflags(write=False)
    return order


def _random_bits(seed: int, stream: str, num_counts: int, *, first_count: int = 0) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    philox = np.random.Philox(key=int.from_bytes(digest, "little"), counter=first_count)
    return philox.random_raw(num_counts * _VALUES_PER_COUNT)


def _to_unit_box(bits: np.ndarray) -> np.ndarray:
    """Map 64 random bits to [-1, 1) by their upper 24, which float32 holds exactly."""
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)

"""Images that are nearly alike: a candidate with a twin elsewhere cannot be told from one that was memorized, or hides.

Each image becomes 128 bits: whether each cell of a 9 x 9 grid of grey means is brighter than its right and than its
lower neighbour (difference hash, after Krawetz 2013). Copies that were resized, compressed again or made brighter
differ in few bits; crops and turned copies are not found.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslmem.datasets.image import decode_image
from sslmem.errors import UndecodableImage
from sslmem.roles import ROLES, Role

GRID = 9
MAX_BITS = 4  # of 128 that may differ between twins

NUM_BANDS = MAX_BITS + 1
MAX_ALIKE = 1000
NUM_EXAMPLES = 3

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

# Bits that lie apart, so that an even border of the images does not fill a band.
BANDS = np.array(
    [
        [sum(1 << bit for bit in range(64) if (64 * word + bit) % NUM_BANDS == band) for word in range(2)]
        for band in range(NUM_BANDS)
    ],
    dtype=np.uint64,
)


def perceptual_hash(pixels: NDArray[np.uint8]) -> Hashes:
    """The hash ``[2]`` of an image ``[H, W, 3]``: 64 bits across, 64 bits down."""
    grey = Image.fromarray(pixels).convert("L").resize((GRID, GRID), Image.Resampling.BILINEAR)
    cells = np.asarray(grey, dtype=np.int16)
    bits = np.stack([cells[:-1, :-1] > cells[:-1, 1:], cells[:-1, :-1] > cells[1:, :-1]])
    return np.packbits(bits.reshape(2, 64), axis=1).view(np.uint64)[:, 0]


def neighbours(table: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of rows of different hashes ``[U, 2]`` that are twins, some of them several times.

    Of five bands of bits at least one is the same in two hashes that differ in four bits, so only rows that share a
    band are compared: about linear in the number of rows. Of more than `MAX_ALIKE` rows that share one, each is
    compared with the next ones in order.
    """
    for band in BANDS:
        masked = table & band
        order = np.lexsort((table[:, 1], table[:, 0], masked[:, 1], masked[:, 0]))
        same = (masked[order[1:]] == masked[order[:-1]]).all(axis=1)
        places = np.flatnonzero(same)  # rows whose next one shares the band
        for step in range(1, MAX_ALIKE + 1):
            if not len(places):
                break
            one, other = order[places], order[places + step]
            near = np.bitwise_count(table[one] ^ table[other]).sum(axis=1, dtype=np.int64) <= MAX_BITS
            yield one[near], other[near]
            places = places[places + step < len(same)]
            places = places[same[places + step]]


def twins_of(
    candidates: Sequence[str], others: Sequence[str], read_image: Callable[[str], bytes]
) -> list[tuple[str, str]]:
    """Pairs of a candidate and a nearly equal image: each candidate that has one, with its nearest.

    Args:
        candidates: paths of the candidates.
        others: paths of the images of other roles.
        read_image: returns the encoded bytes of an image by its path; raises UndecodableImage if it cannot.
    """
    names = [*candidates, *others]
    hashes = [_hash(name, read_image) for name in names]
    known = [i for i, one in enumerate(hashes) if one is not None]
    table = np.array([hashes[i] for i in known], dtype=np.uint64).reshape(len(known), 2)
    unique, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    best: dict[int, tuple[int, int]] = {}  # of a group: bits that differ, and row
    for ones, twos in neighbours(unique):
        bits = np.bitwise_count(unique[ones] ^ unique[twos]).sum(axis=1, dtype=np.int64).tolist()
        for one, two, count in zip(ones.tolist(), twos.tolist(), bits, strict=True):
            for here, there in ((one, two), (two, one)):
                found = (count, int(first[there]))
                best[here] = min(best.get(here, found), found)
    pairs = []
    second = _second_rows(group)
    for row, i in enumerate(known):
        if i >= len(candidates):
            break
        mine = int(group[row])
        equal = int(first[mine]) if first[mine] != row else second.get(mine)
        nearest = equal if equal is not None else best.get(mine, (0, None))[1]
        if nearest is not None:
            pairs.append((names[i], names[known[nearest]]))
    return pairs


def _second_rows(group: Indices) -> dict[int, int]:
    """The second row of each group that has one."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    return {
        int(group[order[start]]): int(order[start + 1])
        for start, end in zip(starts, ends, strict=True)
        if end - start > 1
    }


@dataclass(frozen=True)
class RoleTwins:
    """How many samples of a role have a twin in another role.

    Attributes:
        role: theirs.
        other: the other.
        num_exact: that are the same file.
        num_near: that are no file of the other role, but look like one.
        examples: a few pairs of names.
    """

    role: Role
    other: Role
    num_exact: int
    num_near: int
    examples: tuple[tuple[str, str], ...]


def compare_roles(
    names: Sequence[str], roles: Sequence[Role], keys: Sequence[str], hashes: Sequence[Hashes | None]
) -> list[RoleTwins]:
    """Exact and near duplicates across roles; pairs of roles without any are left out.

    Args:
        names: of the samples.
        roles: of each.
        keys: of each: samples with one key are the same file.
        hashes: of each, None for one that cannot be decoded.
    """
    number = np.array([ROLES.index(role) for role in roles], dtype=np.int64)
    exact = _nearest_by_role(np.unique(np.array(keys), return_inverse=True)[1].reshape(-1), number, None)
    known = np.flatnonzero([one is not None for one in hashes])
    near = np.full((len(names), len(ROLES)), -1)
    if len(known):
        table = np.array([hashes[i] for i in known.tolist()], dtype=np.uint64).reshape(-1, 2)
        unique, group = np.unique(table, axis=0, return_inverse=True)
        found = _nearest_by_role(group.reshape(-1), number[known], unique)
        near[known] = np.where(found >= 0, known[found], -1)
    pairs = []
    for i, role in enumerate(ROLES):
        for j, other in enumerate(ROLES):
            rows = np.flatnonzero(number == i)
            same, alike = rows[exact[rows, j] >= 0], rows[(exact[rows, j] < 0) & (near[rows, j] >= 0)]
            if i == j or not len(same) + len(alike):
                continue
            shown = [(names[row], names[exact[row, j]]) for row in same[:NUM_EXAMPLES].tolist()]
            shown += [(names[row], names[near[row, j]]) for row in alike[:NUM_EXAMPLES].tolist()]
            pairs.append(RoleTwins(role, other, len(same), len(alike), tuple(shown[:NUM_EXAMPLES])))
    return pairs


def _nearest_by_role(group: Indices, number: Indices, unique: Hashes | None) -> Indices:
    """For each row a row of each role that is in its group or in one that is near: ``[N, roles]``, -1 for none."""
    members = np.full((int(group.max(initial=-1)) + 1, len(ROLES)), -1)
    rows = np.arange(len(group))[::-1]
    members[group[rows], number[rows]] = rows  # the first of each
    found = members.copy()
    for ones, twos in neighbours(unique) if unique is not None else ():
        for here, there in ((ones, twos), (twos, ones)):
            found[here] = np.where(found[here] < 0, members[there], found[here])
    return found[group]


def _hash(name: str, read_image: Callable[[str], bytes]) -> Hashes | None:
    try:
        return perceptual_hash(decode_image(read_image(name)))
    except UndecodableImage:
        return None

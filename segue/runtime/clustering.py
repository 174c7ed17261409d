"""Which parts of a recording are of one voice? Average-linkage clustering of unit vectors by cosine distance.

Shape letters: N vectors, D dimensions, K clusters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.intp]

SMALLEST_SHARE, SMALLEST_SECONDS = 0.05, 3.0
"""A speaker speaks for at least this share of the speech, and at least for so long: smaller clusters are outliers."""
LEAST_SECONDS = 1.5
"""A voice that is clearly another one is a speaker with so little, if more speakers are asked for."""
MOST_SPLITS = 200
"""So many outliers, at most, are looked at to find speakers whose voices are alike."""
MOST_SPEAKERS = 10
"""More are never found without being asked for."""
FINE, APART = 0.65, 0.40
"""Shares of the threshold, for an unknown number of speakers: a cluster is divided where its parts, if they are large,
are farther than FINE from each other; two are one voice if they are at most APART farther apart than those inside."""


class Merge(NamedTuple):
    """Two clusters become one."""

    one: int
    """Any vector of the one cluster."""
    other: int
    """Any vector of the other."""
    distance: float
    """Mean cosine distance of the pairs of vectors, one from each."""


def average_linkage(vectors: NDArray[np.floating]) -> list[Merge]:
    """(N, D) unit vectors -> the N - 1 merges of the nearest clusters, nearest first.

    The mean similarity of two clusters is the inner product of their sums, divided by their sizes: memory grows with N,
    not with its square. Chains of nearest neighbors find the merges (Murtagh 1983, "A Survey of Recent Advances in
    Hierarchical Clustering Algorithms", section 3).
    """
    sums, rows = np.array(vectors, np.float64), np.arange(len(vectors))  # row -> a vector of its cluster
    sizes, merges, chain = np.ones(len(vectors)), list[Merge](), list[int]()
    while len(merges) + 1 < len(vectors):
        if not chain:
            chain = [int(np.argmax(sizes > 0))]
        while True:
            last = chain[-1]
            similarities = sums @ sums[last] / np.maximum(sizes, 1) / sizes[last]
            similarities[(sizes == 0) | (np.arange(len(sizes)) == last)] = -np.inf
            nearest = int(np.argmax(similarities))
            if len(chain) > 1 and similarities[chain[-2]] >= similarities[nearest]:
                break
            chain.append(nearest)
        one, other = chain[-2], chain[-1]
        chain = chain[:-2]
        merges.append(Merge(int(rows[one]), int(rows[other]), 1 - float(similarities[one])))
        sums[one] += sums[other]
        sizes[one] += sizes[other]
        sums[other], sizes[other] = 0, 0
        if not chain and 2 * np.count_nonzero(sizes) < len(sizes):  # the rest is faster without empty rows
            kept = sizes > 0
            sums, sizes, rows = sums[kept], sizes[kept], rows[kept]
    return sorted(merges, key=lambda merge: merge.distance)


def cut(merges: Sequence[Merge], count: int) -> Labels:
    """(N) the cluster, from 0, of each vector after `count` of the merges."""
    parent = list(range(len(merges) + 1))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for merge in merges[:count]:
        parent[root(merge.other)] = root(merge.one)
    found: Labels = np.unique([root(place) for place in range(len(parent))], return_inverse=True)[1]
    return found


def clusters(
    vectors: NDArray[np.floating], seconds: NDArray[np.floating], threshold: float, count: int | None
) -> Labels:
    """(N, D) unit vectors of (N) seconds each -> (N) speakers, from 0.

    With a `count`, so many, or fewer if there are not as many vectors: the first cut with so many large clusters, if
    possible at distances above `threshold`, then also small ones; only then are voices divided that sound like
    one. Otherwise as many as `_voices` finds, at most MOST_SPEAKERS. Vectors of small clusters go to the nearest of
    the large ones, so that an outlier does not become a speaker.
    """
    merges, smallest = average_linkage(vectors), _smallest(seconds)
    if count is None:
        return _voices(vectors, seconds, threshold, merges)
    count = min(count, len(vectors))
    num_apart = 1 + sum(merge.distance > threshold for merge in merges)
    for most, least in ((num_apart, smallest), (num_apart, LEAST_SECONDS), (count + MOST_SPLITS, smallest)):
        # A merge less splits one cluster in two: the number of large ones grows by one at most.
        for wanted in range(count, min(len(vectors), most) + 1):
            labels = cut(merges, len(vectors) - wanted)
            large = _large(labels, seconds, least)
            if len(large) == count:
                return _reassigned(vectors, labels, large)
    return cut(merges, len(vectors) - count)


def _voices(
    vectors: NDArray[np.floating], seconds: NDArray[np.floating], threshold: float, merges: Sequence[Merge]
) -> Labels:
    """(N) speakers, however many there are.

    How far apart the parts of one voice are depends on the voice and the channel, so that there is no threshold for
    all: two clusters are one voice if their distance is hardly larger than those inside of them.
    """
    limits, smallest = (threshold, FINE * threshold), _smallest(seconds)
    coarse, fine = (cut(merges, sum(merge.distance <= limit for merge in merges)) for limit in limits)
    labels, count = np.full(len(vectors), -1), 0
    large, parts = _large(coarse, seconds, smallest), _large(fine, seconds, smallest)
    for cluster in large if len(large) else _large(coarse, seconds, 0.0)[:1]:
        inside = [fine == part for part in parts if coarse[fine == part][0] == cluster]
        for members in inside if len(inside) > 1 else [coarse == cluster]:
            labels[members], count = count, count + 1
    means = centers(vectors, labels, labels >= 0, count)
    found: Labels = np.where(labels >= 0, labels, (vectors @ means.T).argmax(axis=1))
    while count > 1:
        excess = _excess(vectors, found, count)
        one, other = sorted(divmod(int(excess.argmin()), count))
        if excess[one, other] > APART * threshold and count <= MOST_SPEAKERS:
            break
        found[found == other] = one
        found, count = found - (found > other), count - 1
    return found


def _excess(vectors: NDArray[np.floating], labels: Labels, count: int) -> NDArray[np.floating]:
    """(K, K) mean distance of two clusters, less that inside of them; infinite on the diagonal.

    It is half the squared distance of their means, without bias.
    """
    sums = np.stack([vectors[labels == number].sum(axis=0) for number in range(count)])
    sizes, similarities = np.bincount(labels, minlength=count), sums @ sums.T
    inside = np.where(sizes > 1, (similarities.diagonal() - sizes) / np.maximum(sizes * (sizes - 1), 1), 1.0)
    excess: NDArray[np.floating] = (inside[:, None] + inside) / 2 - similarities / np.outer(sizes, sizes)
    np.fill_diagonal(excess, np.inf)
    return excess


def _smallest(seconds: NDArray[np.floating]) -> float:
    """Seconds of a large cluster."""
    return max(SMALLEST_SHARE * float(seconds.sum()), SMALLEST_SECONDS)


def _large(labels: Labels, seconds: NDArray[np.floating], smallest: float) -> Labels:
    """The clusters of at least `smallest` seconds, largest first."""
    lengths = np.bincount(labels, weights=seconds)
    order = np.argsort(-lengths, kind="stable")
    return order[lengths[order] >= smallest]


def _reassigned(vectors: NDArray[np.floating], labels: Labels, large: Labels) -> Labels:
    """(N) labels among the large clusters, numbered from 0; vectors of others get that of the nearest center."""
    means = centers(vectors, np.searchsorted(np.sort(large), labels), np.isin(labels, large), len(large))
    nearest: Labels = (vectors @ means.T).argmax(axis=1)
    return np.where(
        np.isin(labels, large), np.minimum(np.searchsorted(np.sort(large), labels), len(large) - 1), nearest
    )


def centers(
    vectors: NDArray[np.floating], labels: Labels, is_used: NDArray[np.bool_], count: int
) -> NDArray[np.floating]:
    """(K, D) unit vectors: the mean of each of `count` clusters, of the vectors that are used."""
    found = np.stack([vectors[is_used & (labels == number)].sum(axis=0) for number in range(count)])
    means: NDArray[np.floating] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return means

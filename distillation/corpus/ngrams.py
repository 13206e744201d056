"""Long n-grams that training and held-out documents share: what makes a held-out figure too good.

A document is its sequence of lower-case words (a character of a script that is written without spaces counts
as a word); punctuation is ignored. Its long n-grams are all runs of `NGRAM_WORDS` words; a shorter document
is one n-gram, filled up. N-grams are compared by a 64-bit polynomial hash of the words' numbers,

    h = sum_k mix(w_k) * B^(n-1-k)  mod 2^64,

computed for all documents of a batch at once by n shifted additions. Only words of held-out documents get a
number, since an n-gram with any other word cannot be shared: memory grows with the held-out part alone.

Invariant: after `find_contaminated`, no training document covers more than the allowed share of any held-out
document, nor consists of held-out n-grams to more than that share, and no held-out document is covered by
more than it by all kept training documents together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NGRAM_WORDS = 24
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+")
_UNKNOWN = -1
_FILLER = -2
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BATCH_CHARACTERS = 8_000_000


@dataclass(frozen=True)
class Overlap:
    """Which n-grams of training documents stand in held-out ones: one entry for each such pair."""

    num_train: int
    num_held_out: int
    train_document: np.ndarray
    """Index of the training document, int64, one a shared n-gram of it."""
    train_ngram: np.ndarray
    """Number of the shared n-gram among the distinct held-out n-grams, int64, parallel to the above."""
    train_shares: np.ndarray
    """Share of each training document's n-grams that stand in held-out documents, float64 (num_train,)."""
    held_out_document: np.ndarray
    """Index of the held-out document, int64, one a distinct n-gram of it, sorted by `held_out_ngram`."""
    held_out_ngram: np.ndarray
    """Number of that n-gram, int64, sorted."""
    num_held_out_ngrams: np.ndarray
    """Number of distinct n-grams of each held-out document, int64 (num_held_out,)."""

    def leaked_shares(self, is_kept: np.ndarray | None = None) -> np.ndarray:
        """Return the share of each held-out document's n-grams in the kept training documents, float64."""
        used = self.train_ngram if is_kept is None else self.train_ngram[is_kept[self.train_document]]
        is_shared = np.zeros(int(self.held_out_ngram.max(initial=-1)) + 1, dtype=bool)
        is_shared[used] = True
        num_leaked = np.bincount(
            self.held_out_document, weights=is_shared[self.held_out_ngram], minlength=self.num_held_out
        )
        return num_leaked / np.maximum(self.num_held_out_ngrams, 1)


def measure_overlap(train: Sequence[str], held_out: Sequence[str]) -> Overlap:
    """Find every long n-gram that a training and a held-out text share."""
    words: dict[str, int] = {}
    held_hashes, held_documents = _distinct(_hashed_batches(held_out, words, is_growing=True))
    known, held_ngram = np.unique(held_hashes, return_inverse=True)
    order = np.argsort(held_ngram, kind="stable")
    train_shares = np.zeros(len(train))
    shared_documents, shared_ngrams = [], []
    for hashes, documents in _hashed_batches(train, words, is_growing=False):
        is_shared = np.isin(hashes, known)
        # Counted with repetition: n-grams of words that only training has are indistinguishable here.
        num_ngrams = np.bincount(documents, minlength=len(train))
        num_shared = np.bincount(documents[is_shared], minlength=len(train))
        train_shares += num_shared / np.maximum(num_ngrams, 1)
        hashes, documents = _distinct([(hashes[is_shared], documents[is_shared])])
        shared_documents.append(documents)
        shared_ngrams.append(np.searchsorted(known, hashes))
    empty = np.zeros(0, dtype=np.int64)
    return Overlap(
        num_train=len(train),
        num_held_out=len(held_out),
        train_document=np.concatenate([empty, *shared_documents]),
        train_ngram=np.concatenate([empty, *shared_ngrams]),
        train_shares=train_shares,
        held_out_document=held_documents[order],
        held_out_ngram=held_ngram[order].astype(np.int64),
        num_held_out_ngrams=np.bincount(held_documents, minlength=len(held_out)),
    )


def find_contaminated(overlap: Overlap, max_share: float) -> np.ndarray:
    """Tell for each training document whether it must go, bool (num_train,).

    Args:
        overlap: shared n-grams of both parts.
        max_share: a training document goes if more than this share of its n-grams is held out, or if it
            alone covers more than this share of a held-out document. Where several together still cover
            more than that, the ones that cover most go first.
    """
    is_dropped = overlap.train_shares > max_share
    train, held_out, count = _pair_counts(overlap)
    is_dropped[train[count > max_share * overlap.num_held_out_ngrams[held_out]]] = True
    # From the largest contribution to the smallest, until each held-out document is clean by itself.
    for index in np.flatnonzero(overlap.leaked_shares(~is_dropped) > max_share):
        own = overlap.held_out_ngram[overlap.held_out_document == index]
        is_own = np.isin(overlap.train_ngram, own)
        documents, ngrams = overlap.train_document[is_own], overlap.train_ngram[is_own]
        of_this = held_out == index
        for document in train[of_this][np.argsort(-count[of_this], kind="stable")]:
            if len(np.unique(ngrams[~is_dropped[documents]])) <= max_share * len(own):
                break
            is_dropped[document] = True
    return is_dropped


def _pair_counts(overlap: Overlap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training index, held-out index and number of shared n-grams of each pair that shares any."""
    first = np.searchsorted(overlap.held_out_ngram, overlap.train_ngram, side="left")
    last = np.searchsorted(overlap.held_out_ngram, overlap.train_ngram, side="right")
    num_matches = last - first
    starts = np.repeat(first - (np.cumsum(num_matches) - num_matches), num_matches)
    rows = starts + np.arange(int(num_matches.sum()))
    pairs = np.repeat(overlap.train_document, num_matches) * np.int64(max(overlap.num_held_out, 1))
    pairs, counts = np.unique(pairs + overlap.held_out_document[rows], return_counts=True)
    return (*np.divmod(pairs, max(overlap.num_held_out, 1)), counts)


def _hashed_batches(
    texts: Sequence[str], words: dict[str, int], *, is_growing: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield n-gram hashes uint64 and the index of their document int64, some megabytes of text at a time."""
    numbers: list[np.ndarray] = []
    first, num_characters = 0, 0
    for index, text in enumerate(texts):
        found = _WORD.findall(text.lower())
        if is_growing:
            row = [words.setdefault(word, len(words)) for word in found]
        else:
            row = [words.get(word, _UNKNOWN) for word in found]
        row += [_FILLER] * (NGRAM_WORDS - len(row))
        numbers.append(np.array(row, dtype=np.int64))
        num_characters += len(text)
        if num_characters >= _BATCH_CHARACTERS or index == len(texts) - 1:
            yield _hash_batch(numbers, first)
            numbers, first, num_characters = [], index + 1, 0


def _hash_batch(numbers: list[np.ndarray], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash all n-grams of consecutive documents; those that would cross a document's end are left out."""
    lengths = np.array([len(row) for row in numbers])
    flat = np.concatenate(numbers)
    mixed = _mix(flat.astype(np.uint64))
    num_starts = len(flat) - NGRAM_WORDS + 1
    hashes = np.zeros(num_starts, dtype=np.uint64)
    for shift in range(NGRAM_WORDS):
        hashes = hashes * _BASE + mixed[shift : shift + num_starts]
    document = np.repeat(np.arange(len(numbers)), lengths)[:num_starts]
    is_inside = np.arange(num_starts) + NGRAM_WORDS <= np.cumsum(lengths)[document]
    return hashes[is_inside], document[is_inside] + first


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Spread small numbers over 64 bits (splitmix64), so that sums of products do not collide."""
    mixed = (numbers + np.uint64(1)) * _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _distinct(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return each n-gram once a document: hashes and document indices."""
    parts = list(batches)
    if not parts:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    hashes = np.concatenate([hashes for hashes, _ in parts])
    documents = np.concatenate([documents for _, documents in parts])
    order = np.lexsort((hashes, documents))
    hashes, documents = hashes[order], documents[order]
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (documents[1:] != documents[:-1])
    return hashes[is_first], documents[is_first]

"""Long n-grams that training and held-out documents share.

A held-out document that repeats a training document measures memory, not language. Every run of `NUM_WORDS`
words is hashed to 64 bits; a document's *leaked share* is the share of its runs that stand in the other part.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

NUM_WORDS = 24
"""Length of a long n-gram in words: far beyond common phrases, shorter than copied paragraphs."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def long_ngrams(text: str) -> np.ndarray:
    """Return the distinct 64-bit hashes of all runs of `NUM_WORDS` words; empty for a shorter text."""
    words = np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in text.split()), np.uint64)
    num_runs = len(words) - NUM_WORDS + 1
    if num_runs <= 0:
        return np.empty(0, np.uint64)
    # A polynomial in the word hashes, modulo 2^64: one vector operation a word of the run.
    runs = np.zeros(num_runs, np.uint64)
    for shift in range(NUM_WORDS):
        runs = runs * _BASE + words[shift : shift + num_runs]
    return np.unique(runs)


def ngram_index(texts: Iterable[str]) -> np.ndarray:
    """Return the sorted distinct long n-grams of all `texts`."""
    parts = [long_ngrams(text) for text in texts]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def leaked_share(text: str, index: np.ndarray) -> float:
    """Return the share of the long n-grams of `text` that stand in `index`, 0 for a short text."""
    ngrams = long_ngrams(text)
    if len(ngrams) == 0 or len(index) == 0:
        return 0.0
    places = np.minimum(np.searchsorted(index, ngrams), len(index) - 1)
    return float(np.mean(index[places] == ngrams))

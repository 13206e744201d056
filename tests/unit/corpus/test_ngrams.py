"""Shared long n-grams against a slow, plain reference."""

from __future__ import annotations

import random

import numpy as np
import pytest

from distillation.corpus import ngrams
from distillation.corpus.ngrams import NGRAM_WORDS, find_contaminated, measure_overlap


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    if len(words) < NGRAM_WORDS:
        return {tuple(words)}
    return {tuple(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1)}


def _texts(seed: int) -> tuple[list[str], list[str]]:
    """Random texts of few words, with passages copied from the held-out part into training."""
    generator = random.Random(seed)
    words = [f"word{i}" for i in range(40)]

    def text(length: int) -> list[str]:
        return generator.choices(words, k=length)

    held_out = [text(generator.randint(1, 200)) for _ in range(8)]
    train = [text(generator.randint(1, 300)) for _ in range(30)]
    for copy in range(12):
        source = generator.choice(held_out)
        start = generator.randrange(max(1, len(source) - 30))
        passage = source[start : start + generator.randint(20, 150)]
        train[copy] = text(generator.randint(0, 40)) + passage + text(generator.randint(0, 40))
    train[20] = held_out[0]
    return [" ".join(words).capitalize() for words in train], [" ".join(words) for words in held_out]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_characters", [1, 700, 10_000_000])
def test_leaked_shares_equal_the_reference(monkeypatch, seed, batch_characters):
    monkeypatch.setattr(ngrams, "_BATCH_CHARACTERS", batch_characters)
    train, held_out = _texts(seed)
    overlap = measure_overlap(train, held_out)
    known = set().union(*map(_grams, train))
    expected = [len(_grams(text) & known) / len(_grams(text)) for text in held_out]
    np.testing.assert_allclose(overlap.leaked_shares(), expected)
    is_kept = np.arange(len(train)) % 2 == 0
    known = set().union(*(_grams(text) for text, kept in zip(train, is_kept, strict=True) if kept))
    expected = [len(_grams(text) & known) / len(_grams(text)) for text in held_out]
    np.testing.assert_allclose(overlap.leaked_shares(is_kept), expected)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_leaks_after_dropping(seed):
    train, held_out = _texts(seed)
    overlap = measure_overlap(train, held_out)
    is_dropped = find_contaminated(overlap, 0.2)
    assert overlap.leaked_shares(~is_dropped).max() <= 0.2
    assert is_dropped[20]  # a copy of a whole held-out document
    # Documents that share nothing stay.
    known = set().union(*map(_grams, held_out))
    shares_nothing = np.array([not (_grams(text) & known) for text in train])
    assert shares_nothing.any()
    assert not (is_dropped & shares_nothing).any()


def test_many_small_pieces_of_one_document_are_found():
    words = [f"w{i}" for i in range(400)]
    held_out = [" ".join(words)]
    pieces = [" ".join([f"x{i}a{j}" for j in range(200)] + words[40 * i : 40 * i + 40]) for i in range(10)]
    overlap = measure_overlap(pieces, held_out)
    # Each piece alone is harmless: 17 of the 377 n-grams.
    assert overlap.leaked_shares()[0] > 0.2
    is_dropped = find_contaminated(overlap, 0.2)
    assert overlap.leaked_shares(~is_dropped)[0] <= 0.2
    assert not is_dropped.all()


def test_case_punctuation_and_spaces_do_not_hide_a_copy():
    words = [f"word{i}" for i in range(60)]
    train = [", ".join(words).upper() + "!\n"]
    assert measure_overlap(train, [" ".join(words)]).leaked_shares()[0] == 1.0


def test_scripts_without_spaces_have_ngrams():
    text = "学而时习之不亦说乎有朋自远方来不亦乐乎人不知而不愠不亦君子乎吾日三省吾身"
    other = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨"
    assert measure_overlap(["前文" + text], [text]).leaked_shares()[0] == 1.0
    assert measure_overlap([other], [text]).leaked_shares()[0] == 0.0


def test_empty_parts():
    assert measure_overlap([], ["a b"]).leaked_shares().tolist() == [0.0]
    overlap = measure_overlap(["a b"], [])
    assert overlap.leaked_shares().tolist() == []
    assert find_contaminated(overlap, 0.2).tolist() == [False]

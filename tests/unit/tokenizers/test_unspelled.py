"""Texts that one side cannot spell as a whole: only the stretch around the part is lost, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from alignment_properties import check_alignment_without_lost, check_shortened
from alignment_reference import (
    SENTENCES,
    sentencepiece_bpe,
    sentencepiece_unigram,
    trained_byte_level,
    wordpiece,
)
from alignment_texts import text_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from distillation.audit.audit import audit_tokenizers
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import PairEncoder

KNOWN = "abcdefghijklmnopqrstuvwxyz .,"


def letters(known: str = KNOWN, unknown: str | None = "<unk>") -> Tokenizer:
    """One token a character; what is not known is the unknown token, or dropped if there is none."""
    vocabulary = {letter.replace(" ", "▁"): index for index, letter in enumerate(known)}
    if unknown is not None:
        vocabulary[unknown] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=unknown))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    return tokenizer


def few_bytes() -> Tokenizer:
    """A byte-level vocabulary that lacks the bytes from 0xC4 on, and drops them without a token."""
    full = trained_byte_level(300)
    alphabet = {chr(b): b for b in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0xC4))}
    names = [token for token in full.get_vocab() if set(token) <= alphabet.keys() | {"Ġ", "Ċ"}]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_letter_by_letter_nothing_else_is_lost(unknown: str | None) -> None:
    generator = np.random.default_rng(0)
    encoder = PairEncoder(letters(unknown=unknown), trained_byte_level(260))
    for _ in range(50):
        text = "Ω" + "".join(generator.choice(list(KNOWN + "Ωé語"), 40))
        [pair] = encoder.encode([text])
        expected = "".join(letter for letter in text if letter in KNOWN)
        assert check_shortened(encoder, text, pair).decode() == expected
    both = PairEncoder(letters(KNOWN[:20], unknown), letters(KNOWN[5:], unknown))
    text = "a fox jumps, zebras do not."
    [pair] = both.encode([text])
    kept = "".join(letter for letter in text if letter in KNOWN[5:20])
    assert check_shortened(both, text, pair).decode() == kept
    assert both.lost.keys() <= both.shortened.keys()


FAMILIES = {
    "unigram": sentencepiece_unigram,
    "wordpiece": wordpiece,
    "letters": letters,
    "dropping": lambda: letters(unknown=None),
    "few_bytes": few_bytes,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", [lambda: trained_byte_level(400), sentencepiece_bpe])
def test_whatever_the_text_the_rest_is_kept(family: str, other) -> None:
    generator = np.random.default_rng(1)
    for sides in ((FAMILIES[family](), other()), (other(), FAMILIES[family]())):
        encoder = PairEncoder(*sides)
        num_shortened = 0
        for _ in range(60):
            text = f"{generator.choice(SENTENCES)} {text_of(generator.bytes(12))}".replace("\ud83d", "")
            [pair] = encoder.encode([text])
            if pair is None or pair.losses is None:
                continue
            num_shortened += 1
            normalised = encoder.normalise(text)
            check_shortened(encoder, normalised, pair)
            assert len(pair.losses.begins) == np.count_nonzero(~pair.trained)
            for window in cut_pair(pair, 9):
                assert window.student.ends[-1] == window.teacher.ends[-1] == window.num_bytes
                check_alignment_without_lost(window)
        assert num_shortened > 20
        assert sum(encoder.lost.values()) > 0


def test_far_from_the_part_all_is_as_it_would_be() -> None:
    encoder = PairEncoder(sentencepiece_unigram(), trained_byte_level(400))
    before, after = "the quick brown fox jumps over", "the lazy dog, over and over"
    [pair] = encoder.encode([f"{before} Ω {after}"])
    [alone] = encoder.encode([before])
    assert pair.student.ids[: len(alone.student.ids)].tolist() == alone.student.ids.tolist()
    assert pair.trained.sum() > len(pair.trained) - 6
    kept = check_shortened(encoder, f"{before} Ω {after}", pair).decode()
    assert kept.startswith(" " + before)
    assert kept.endswith(after)


def test_the_audit_counts_what_is_lost_by_cause_and_script() -> None:
    teacher, student = sentencepiece_unigram(), trained_byte_level(400)
    texts = ["the dog ΩΩΩ runs", "the dog"]
    audit = audit_tokenizers(teacher, student, texts).corpus
    assert (audit.num_texts, audit.num_refused_texts, audit.num_shortened_texts) == (2, 0, 1)
    [pair, whole] = PairEncoder(teacher, student).encode(texts)
    assert audit.num_positions == len(pair.student.ids) + len(whole.student.ids)
    num_lost = int((~pair.trained).sum())
    for coverage in audit.coverage.values():
        causes = coverage.causes_without_target
        assert causes["in a text: unknown token (teacher)"] == num_lost / audit.num_positions
        assert coverage.share_with_target + sum(causes.values()) == pytest.approx(1)
    assert audit.scripts["Greek"].coverage["prefix"].share_with_target == 0
    advice = audit_tokenizers(teacher, student, texts).advice
    assert "most by in a text: unknown token (teacher)" in advice

"""Tokens as bytes for each tokenizer family, and pairs that speak of the same bytes or are refused."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from alignment_families import BUILDERS, byte_level, variants_of
from alignment_reference import (
    END,
    SENTENCES,
    exhaustive,
    sentencepiece_bpe,
    sentencepiece_unigram,
    trained_byte_level,
    vocabulary_bytes,
    wordpiece,
)
from alignment_texts import text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from distillation.audit.audit import audit_tokenizers
from distillation.errors import AlignmentError
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.token_bytes import byte_alphabet, same_tokenizer, tokens_as_bytes

HARD_TEXTS = (
    *SENTENCES,
    "e\u0301 decomposed and \u00e9 composed, \u212b and \u00c5",
    "   leading,    inner\t\ttabs \n\n\n and trailing   ",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 \u200d zero width \ufeff \u00a0 space",
    "\x00 control \x7f \u2028 line \x85",
    "زيادة 中文字符 ไทย ᚠᛇᚻ 𝔘𝔫𝔦",
    "a",
    " ",
    "\n",
)


@pytest.fixture(scope="module")
def encoder() -> PairEncoder:
    return PairEncoder(trained_byte_level(400, nfc=True), trained_byte_level(320, split_digits=True))


def check_pair(encoder: PairEncoder, pair: Any, expected: bytes) -> None:
    for tokens, side in ((encoder.teacher_bytes, pair.teacher), (encoder.student_bytes, pair.student)):
        assert tokens.join(side.ids) == expected
        begin = 0
        for index, end in zip(side.ids, side.ends, strict=True):
            assert end > begin
            assert tokens.table[index] == expected[begin:end]
            begin = end
        assert begin == pair.num_bytes == len(expected)
        assert side.ids.dtype == side.ends.dtype == np.int32
        assert side.begins.tolist() == [0, *side.ends[:-1].tolist()]


def test_byte_alphabet_is_a_bijection() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == 0x20
    assert byte_alphabet()["Ċ"] == 0x0A
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())


def test_byte_level_specials_and_added_tokens() -> None:
    tokenizer = trained_byte_level(300)
    tokenizer.add_tokens(["   ", "é "])
    tokens = tokens_as_bytes(tokenizer)
    assert tokens.family == "byte_level_bpe"
    assert tokens.table[tokenizer.token_to_id(END)] is None
    assert tokens.special_strings == {END: tokenizer.token_to_id(END)}
    assert tokens.table[tokenizer.token_to_id("   ")] == b"   "
    assert tokens.table[tokenizer.token_to_id("é ")] == "é ".encode()
    assert {i: t for i, t in enumerate(tokens.table) if t is not None} == vocabulary_bytes(tokenizer)
    assert tokens.lengths.tolist() == [len(token or b"") for token in tokens.table]


def test_sentencepiece_bpe_bytes_and_fallback() -> None:
    tokenizer = sentencepiece_bpe()
    tokens = tokens_as_bytes(tokenizer)
    assert tokens.family == "sentencepiece_bpe"
    assert tokens.table[tokenizer.token_to_id("▁the")] == b" the"
    assert tokens.table[tokenizer.token_to_id("<0xE2>")] == b"\xe2"
    assert tokens.table[tokenizer.token_to_id("<s>")] is None
    # "a" is there twice, as itself and as a fallback byte: the tokenizer uses itself.
    assert tokens.canonical_ids[b"a"] == tokenizer.token_to_id("a")
    assert tokens.canonical_ids[b"\xe2"] == tokenizer.token_to_id("<0xE2>")


def test_sentencepiece_pairs_with_byte_level_through_the_space_in_front() -> None:
    for pair_of in (lambda a, b: PairEncoder(a, b), lambda a, b: PairEncoder(b, a)):
        encoder = pair_of(sentencepiece_bpe(), trained_byte_level(300))
        texts = ["the dogs", " the dog, 日本 \n\n the", "zebra"]
        for text, pair in zip(texts, encoder.encode(texts), strict=True):
            check_pair(encoder, pair, (" " + text).encode())
        assert not encoder.refusals


def test_unigram_normalises_both_sides() -> None:
    encoder = PairEncoder(sentencepiece_unigram(), trained_byte_level(300))
    assert encoder.teacher_bytes.family == "sentencepiece_unigram"
    assert encoder.teacher_bytes.table[0] is None
    # NFKC turns the ligature into two letters, and both sides must read those.
    [pair] = encoder.encode(["the ﬁrst fox"])
    check_pair(encoder, pair, b" the first fox")


def test_unigram_without_fallback_loses_what_it_cannot_spell() -> None:
    encoder = PairEncoder(sentencepiece_unigram(), trained_byte_level(300))
    shortened, whole, refused = encoder.encode(["the dog Ω", "the dog", "Ω"])
    assert shortened.num_bytes == whole.num_bytes + 1  # the space before it
    assert whole.losses is None
    assert refused is None
    assert encoder.refusals == encoder.shortened == {"unknown token (teacher)": 1}
    assert encoder.lost == {"unknown token (teacher)": 4}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_byte_is_a_byte_though_it_is_called_special(kind: str) -> None:
    """Trainers can add `<0x00>` to `<0xFF>` as special tokens only."""
    special = [AddedToken(f"<0x{byte:02X}>", special=True, normalized=False) for byte in range(256)]
    if kind == "bpe":
        tokenizer = sentencepiece_bpe()
    else:
        pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -2.0)]
        pieces += [(letter, -3.0) for letter in "adegho<0x9>bt"]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ordinary = tokens_as_bytes(tokenizer)
    texts = ["a\tdog", "ζ 日本\n", *(["the <0x09>"] if kind == "bpe" else [])]
    expected = PairEncoder(tokenizer, byte_level(300)).encode(texts)
    assert tokenizer.token_to_id("<0x09>") in expected[0].teacher.ids
    tokenizer.add_special_tokens(special)
    assert tokens_as_bytes(tokenizer).table == ordinary.table
    for sides in ((tokenizer, byte_level(300)), (byte_level(300), tokenizer)):
        encoder = PairEncoder(*sides)
        found = encoder.encode(texts)
        assert not encoder.refusals
        for text, pair, reference in zip(texts, found, expected, strict=True):
            check_pair(encoder, pair, (" " + text).encode())
            ids = (pair.teacher if sides[0] is tokenizer else pair.student).ids
            assert ids.tolist() == reference.teacher.ids.tolist()
    audit = audit_tokenizers(tokenizer, byte_level(300))
    assert not audit.teacher.missing_bytes


def test_wordpiece_reads_words_with_one_space_between() -> None:
    encoder = PairEncoder(wordpiece(), trained_byte_level(300))
    assert encoder.teacher_bytes.family == "wordpiece"
    texts = ["The quick brown fox,  and the dog."]
    [pair] = encoder.encode(texts)
    check_pair(encoder, pair, b" the quick brown fox , and the dog .")
    assert any(token and not token.startswith(b" ") for token in encoder.teacher_bytes.table)


@pytest.mark.parametrize("family", BUILDERS)
def test_tables_equal_the_published_rules(family: str) -> None:
    for variant in variants_of(family):
        tokens = tokens_as_bytes(variant.tokenizer)
        assert {i: piece for i, piece in enumerate(tokens.table) if piece is not None} == variant.table
        assert not tokens.special_ids & set(variant.table)


def test_families_are_told_apart() -> None:
    found = {
        family: [tokens_as_bytes(variant.tokenizer).family for variant in variants_of(family)]
        for family in BUILDERS
    }
    assert found == {
        "byte_level_bpe": ["byte_level_bpe"] * 3,
        "sentencepiece_bpe": ["sentencepiece_bpe"] * 5,
        "sentencepiece_unigram": ["sentencepiece_unigram"] * 2,
        "words": ["wordpiece", "wordlevel"],
        "bytes": ["literal_bpe", "byte_level_bpe"],
        "characters": ["literal_bpe", "literal_bpe", "literal_wordlevel"],
        "added_tokens": ["byte_level_bpe"] * 3 + ["sentencepiece_bpe"],
    }


def test_byte_models_have_the_ids_of_byt5() -> None:
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer(extra_ids=0)
    for variant in variants_of("bytes"):
        encoder = PairEncoder(variant.tokenizer, byte_level(300))
        for text in HARD_TEXTS:
            [pair] = encoder.encode([text])
            check_pair(encoder, pair, text.encode())
            assert pair.teacher.ids.tolist() == slow(text, add_special_tokens=False)["input_ids"]
            assert pair.teacher.ends.tolist() == list(range(1, len(text.encode()) + 1))


def words_without_marks() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def end_of_word_marks() -> Tokenizer:
    """CLIP's kind."""
    tokenizer = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.mark.parametrize("tokenizer", [words_without_marks(), end_of_word_marks()])
def test_unknown_family_is_refused_in_one_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(AlignmentError, match=r"no family with known bytes; use a byte-level BPE") as caught:
        tokens_as_bytes(tokenizer)
    assert "\n" not in str(caught.value)


def test_slow_tokenizers_are_refused_in_one_line() -> None:
    from transformers import ByT5Tokenizer, CanineTokenizer

    for tokenizer in (ByT5Tokenizer(), CanineTokenizer(), object()):
        with pytest.raises(AlignmentError, match="no fast implementation") as caught:
            tokens_as_bytes(tokenizer)
        assert "\n" not in str(caught.value)


def test_a_token_without_bytes_is_none() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("", -1.0), ("▁a", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert tokens_as_bytes(tokenizer).table == (None, None, b" a")


def test_added_tokens_that_eat_spaces_are_refused_not_misaligned() -> None:
    teacher = byte_level()
    teacher.add_tokens([AddedToken("<X>", lstrip=True), AddedToken("<Y>", rstrip=True)])
    encoder = PairEncoder(teacher, byte_level(300))
    texts = ["a<X> b <Y>c", "a <X> b", "a<Y> b", "a  <X>"]
    # Nothing is eaten in the first; in each other a space has no token.
    assert [pair.num_bytes for pair in encoder.encode(texts)] == [11, 3, 4, 1]
    assert encoder.shortened == {"tokens do not give the text back (teacher)": 3}
    # Both sides eat the same space: the bytes are equal, but they are not the text's.
    alike = PairEncoder(teacher, teacher)
    assert [pair.num_bytes for pair in alike.encode(texts)] == [11, 3, 5, 1]


def test_normalised_added_tokens_are_their_normalised_text() -> None:
    [_, lower, _, front] = variants_of("added_tokens")
    encoder = PairEncoder(lower.tokenizer, byte_level(300))
    [pair] = encoder.encode(["a BAR bar Bar"])
    check_pair(encoder, pair, b"a bar bar bar")
    assert pair.teacher.ids.tolist().count(lower.tokenizer.token_to_id("Bar")) == 3
    encoder = PairEncoder(byte_level(300), front.tokenizer)
    [pair] = encoder.encode(["the <X> dog"])
    check_pair(encoder, pair, b" the <X> dog")
    assert front.tokenizer.token_to_id("<X>") in pair.student.ids


def test_a_literal_mark_is_a_space_to_sentencepiece_alone() -> None:
    encoder = PairEncoder(sentencepiece_bpe(), byte_level(300))
    check_pair(encoder, encoder.encode(["the▁dog"])[0], b" the dog")
    encoder = PairEncoder(variants_of("bytes")[0].tokenizer, byte_level(300))
    check_pair(encoder, encoder.encode(["the▁dog"])[0], "the▁dog".encode())


def test_a_run_of_spaces_that_is_squeezed_is_squeezed_on_both_sides() -> None:
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    encoder = PairEncoder(tokenizer, byte_level(300))
    check_pair(encoder, encoder.encode(["the   dog,  a dog  "])[0], b" the dog, a dog")
    # The first reading makes spaces of marks, only the second can squeeze those.
    check_pair(encoder, encoder.encode(["the ▁ dog"])[0], b" the dog")


def test_normalisers_that_never_settle_are_refused() -> None:
    growing = byte_level(normalizer=normalizers.Replace("a", "aa"))
    encoder = PairEncoder(byte_level(300), growing)
    assert encoder.encode(["the fox", "a fox"])[1] is None
    assert encoder.refusals == {"normalisers disagree": 1}


def test_a_batch_is_encoded_as_its_texts_alone() -> None:
    generator = np.random.default_rng(0)
    texts = [text_of(generator.bytes(20)) for _ in range(200)]
    for first, second in (("sentencepiece_bpe", "byte_level_bpe"), ("byte_level_bpe", "added_tokens")):
        encoder = PairEncoder(variants_of(first)[0].tokenizer, variants_of(second)[0].tokenizer)
        together = encoder.encode(texts)
        alone = [encoder.encode([text])[0] for text in texts]
        assert [pair is None for pair in together] == [pair is None for pair in alone]
        assert 20 < sum(pair is not None for pair in together) < 200
        for one, other in zip(together, alone, strict=True):
            for role in ("teacher", "student") if one is not None else ():
                assert getattr(one, role).ids.tolist() == getattr(other, role).ids.tolist()
                assert getattr(one, role).ends.tolist() == getattr(other, role).ends.tolist()


def test_hard_texts_are_encoded_without_loss(encoder: PairEncoder) -> None:
    for text, pair in zip(HARD_TEXTS, encoder.encode(HARD_TEXTS), strict=True):
        # The teacher is NFC, so both sides read NFC.
        check_pair(encoder, pair, unicodedata.normalize("NFC", text).encode())


@settings(exhaustive, max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_is_partitioned(text: str) -> None:
    encoder = _ANY
    expected = unicodedata.normalize("NFC", text).encode()
    [pair] = encoder.encode([text])
    check_pair(encoder, pair, expected)


_ANY = PairEncoder(trained_byte_level(400, nfc=True), trained_byte_level(320, split_digits=True))


def test_refusals_are_counted_and_harm_no_neighbour(encoder: PairEncoder) -> None:
    encoder.refusals.clear()
    texts = ["fine", f"a {END} inside", "", "lone \ud800 surrogate", "fine too"]
    pairs = encoder.encode(texts)
    assert [pair is not None for pair in pairs] == [True, True, False, False, True]
    assert encoder.refusals == {
        "empty": 1,
        "not valid Unicode": 1,
    }


def test_missing_byte_tokens_are_refused_not_misaligned() -> None:
    student = Tokenizer(models.BPE({"a": 0, "b": 1, "Ġ": 2}, []))
    student.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder = PairEncoder(trained_byte_level(300), student)
    first, second = encoder.encode(["ab ba", "ab cd"])
    check_pair(encoder, first, b"ab ba")
    assert second.num_bytes == 3
    assert second.student.ids.tolist() == [0, 1, 2]
    assert second.teacher.ends.tolist() == [1, 2, 3, 3, 3]
    assert encoder.shortened == {"tokens do not give the text back (student)": 1}
    assert not encoder.lost, "the student has no token of what is lost"


def test_padding_and_truncation_of_the_tokenizer_are_ignored() -> None:
    teacher, student = trained_byte_level(400), trained_byte_level(320)
    teacher.enable_truncation(2)
    student.enable_padding(length=50)
    encoder = PairEncoder(teacher, student)
    check_pair(encoder, encoder.encode([SENTENCES[0]])[0], SENTENCES[0].encode())
    assert teacher.truncation is not None, "the caller's tokenizer must be left alone"


def test_same_tokenizer_looks_at_meaning() -> None:
    one = trained_byte_level(300)
    assert same_tokenizer(one, Tokenizer.from_str(one.to_str()))
    padded = Tokenizer.from_str(one.to_str())
    padded.enable_padding()
    assert same_tokenizer(one, padded)
    assert not same_tokenizer(one, trained_byte_level(301))
    assert not same_tokenizer(one, trained_byte_level(300, nfc=True))


def test_an_added_token_wins_over_an_equal_one_of_the_model() -> None:
    tokenizer = Tokenizer(models.BPE({"Ġ": 0, "ĠĠ": 1, "a": 2}, [("Ġ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens(["  "])
    assert tokenizer.encode("a  a").ids == [2, 3, 2]
    assert tokens_as_bytes(tokenizer).canonical_ids == {b" ": 0, b"  ": 3, b"a": 2}


def test_digest_follows_the_meaning_of_ids() -> None:
    one = tokens_as_bytes(trained_byte_level(300))
    assert one.digest == tokens_as_bytes(trained_byte_level(300)).digest
    assert one.digest != tokens_as_bytes(trained_byte_level(301)).digest

"""Planted faults: the checks of the properties must find each of them, and pass without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from alignment_families import byte_level
from alignment_properties import check_text
from alignment_reference import END, SENTENCES, sentencepiece_bpe, vocabulary_bytes
from alignment_texts import text_of
from tokenizers import Tokenizer, processors

from distillation.tokenizers import cutting, spans
from distillation.tokenizers.pairs import EncodedPair, EncodedText, PairEncoder
from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.spans import Alignment
from distillation.tokenizers.token_bytes import TokenBytes

Align = Callable[[Sequence[EncodedPair]], Alignment]


def check_sentences() -> None:
    """Run the property checks as the random tests do, on texts that both sides can write."""
    coarse, fine = byte_level(400), byte_level(300)
    for sides in ((coarse, fine), (fine, coarse)):
        encoder = PairEncoder(*sides)
        tables = (vocabulary_bytes(sides[0]), vocabulary_bytes(sides[1]))
        for text in SENTENCES:
            check_text(encoder, tables, text, text, must_accept=True)


def test_the_checks_pass_without_a_fault() -> None:
    check_sentences()


def shifted_rows(real: Align, by: int) -> Align:
    """The student's token is paired with the row before or after the one that predicts its first byte."""

    def align(batch: Sequence[EncodedPair]) -> Alignment:
        alignment = real(batch)
        position_BT = alignment.teacher_position_BT
        last_B1 = np.array([len(pair.teacher.ids) - 1 for pair in batch])[:, None]
        moved_BT = np.where(position_BT >= 0, np.clip(position_BT + by, 0, last_B1), -1)
        return dataclasses.replace(alignment, teacher_position_BT=moved_BT)

    return align


def unmasked(real: Align) -> Align:
    """Padding is not told from tokens: every place of the batch has a row."""

    def align(batch: Sequence[EncodedPair]) -> Alignment:
        alignment = real(batch)
        return dataclasses.replace(
            alignment, teacher_position_BT=np.maximum(alignment.teacher_position_BT, 0)
        )

    return align


def unmasked_reach(real: Align) -> Align:
    """Padding is right, but tokens beyond the teacher's last byte keep the last row."""

    def align(batch: Sequence[EncodedPair]) -> Alignment:
        alignment = real(batch)
        position_BT = alignment.teacher_position_BT.copy()
        for window, pair in enumerate(batch):
            row = position_BT[window, : len(pair.student.ids)]
            row[row < 0] = len(pair.teacher.ids) - 1
        return dataclasses.replace(alignment, teacher_position_BT=position_BT)

    return align


def by_ends(real: Align) -> Align:
    """The row is chosen by where the student's token ends, not by where it begins."""

    def align(batch: Sequence[EncodedPair]) -> Alignment:
        alignment = real(batch)
        position_BT = alignment.teacher_position_BT.copy()
        for window, pair in enumerate(batch):
            rows = np.searchsorted(pair.teacher.ends, pair.student.ends, side="left")
            used = position_BT[window, : len(rows)] >= 0
            position_BT[window, : len(rows)][used] = rows[used]
        return dataclasses.replace(alignment, teacher_position_BT=position_BT)

    return align


ALIGNMENT_FAULTS: dict[str, Callable[[Align], Align]] = {
    "rows one too late": lambda real: shifted_rows(real, 1),
    "rows one too early": lambda real: shifted_rows(real, -1),
    "padding mask dropped": unmasked,
    "mask of the teacher's reach dropped": unmasked_reach,
    "aligned by ends": by_ends,
}


@pytest.mark.parametrize("fault", ALIGNMENT_FAULTS)
def test_a_faulty_alignment_is_caught(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(spans, "align_spans", ALIGNMENT_FAULTS[fault](spans.align_spans))
    with pytest.raises(AssertionError):
        check_sentences()


@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_one_sided_bos_is_caught(monkeypatch: pytest.MonkeyPatch, role: str, width: int) -> None:
    """The encoder puts a start token before one side's ids and gives it no byte, or one."""
    real = PairEncoder._pair

    def with_bos(encoder: PairEncoder, *arguments: Any) -> EncodedPair | str:
        pair = real(encoder, *arguments)
        assert isinstance(pair, EncodedPair)
        tokens: TokenBytes = getattr(encoder, f"{role}_bytes")
        side: EncodedText = getattr(pair, role)
        bos = np.array([tokens.special_strings[END]], dtype=np.int32)
        ends = np.concatenate([np.zeros(1, dtype=np.int32), side.ends]) + np.int32(width)
        changed = EncodedText(np.concatenate([bos, side.ids]), ends.astype(np.int32))
        return dataclasses.replace(pair, **{role: changed})  # type: ignore[arg-type]

    monkeypatch.setattr(PairEncoder, "_pair", with_bos)
    with pytest.raises((AssertionError, KeyError)):
        check_sentences()


def with_template(tokenizer: Tokenizer, *, bos: bool, eos: bool) -> Tokenizer:
    """The same tokenizer, set to put special tokens around every text."""
    template = " ".join([END] * bos + ["$A"] + [END] * eos)
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(END, copy.token_to_id(END))]
    )
    return copy


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (True, True)])
def test_special_tokens_of_one_side_never_enter(bos: bool, eos: bool) -> None:
    plain, other = byte_level(400), byte_level(300)
    framed = with_template(plain, bos=bos, eos=eos)
    assert len(framed.encode("a").ids) == 1 + bos + eos
    expected = PairEncoder(plain, other).encode(SENTENCES)
    for sides in ((framed, other), (other, framed)):
        for pair, reference in zip(PairEncoder(*sides).encode(SENTENCES), expected, strict=True):
            assert pair is not None
            assert reference is not None
            own, partner = (pair.teacher, pair.student)[:: 1 if sides[0] is framed else -1]
            assert own.ids.tolist() == reference.teacher.ids.tolist()
            assert partner.ids.tolist() == reference.student.ids.tolist()


def test_a_leaking_post_processor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(reader: PlainText, texts: Sequence[str]) -> list[list[int]]:
        return [[0, *encoding.ids] for encoding in reader.encodings(texts)]

    framed, other = with_template(byte_level(400), bos=True, eos=False), byte_level(300)
    tables = (vocabulary_bytes(framed), vocabulary_bytes(other))
    check_text(PairEncoder(framed, other), tables, SENTENCES[0], SENTENCES[0], must_accept=True)
    monkeypatch.setattr(PlainText, "ids", leaking)
    with pytest.raises(AssertionError):
        check_text(PairEncoder(framed, other), tables, SENTENCES[0], SENTENCES[0], must_accept=True)


def test_a_character_lost_on_both_sides_is_lost() -> None:
    """Equal bytes on both sides are not enough: they must be the text's."""
    tokenizer = sentencepiece_bpe()
    model = tokenizer.model
    model.byte_fallback = False
    model.unk_token = None
    encoder = PairEncoder(tokenizer, tokenizer)
    assert tokenizer.encode("the dogΩ", add_special_tokens=False).tokens[-1] == "▁dog"
    shortened, refused = encoder.encode(["the dogΩ", "Ω"])
    assert shortened.num_bytes == len(" the dog")
    assert shortened.losses is not None
    assert refused is None
    cause = "tokens do not give the text back"
    assert encoder.shortened == {f"{cause} (teacher)": 1, f"{cause} (student)": 1}
    assert encoder.refusals == {f"{cause} (teacher)": 1}


def test_a_piece_cut_off_its_boundary_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cutting.cut_pair

    def one_token_more(pair: EncodedPair, max_tokens: int) -> list[EncodedPair]:
        pieces = list(real(pair, max_tokens))
        student = pieces[0].student
        shorter = EncodedText(student.ids[:-1], student.ends[:-1])
        return [dataclasses.replace(pieces[0], student=shorter), *pieces[1:]]

    monkeypatch.setattr(cutting, "cut_pair", one_token_more)
    with pytest.raises(AssertionError):
        check_sentences()


def test_groups_of_another_window_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spans.group_ids

    def counted_on(batch: Sequence[EncodedPair]) -> tuple[np.ndarray, np.ndarray]:
        student_BT, teacher_BS = real(batch)
        return np.where(student_BT >= 0, student_BT + 1, -1), teacher_BS

    monkeypatch.setattr(spans, "group_ids", counted_on)
    with pytest.raises(AssertionError):
        check_sentences()


def test_random_texts_reach_all_of_unicode() -> None:
    """The texts of the random tests hold what they are meant to: else passing would say little."""
    generator = np.random.default_rng(0)
    texts = [text_of(generator.bytes(30)) for _ in range(2_000)]
    joined = "".join(texts)
    planes = {ord(character) >> 16 for character in joined}
    assert planes == set(range(17))
    for part in ("\u200d", "🇩🇪", "👍🏽", "\u0301", "\ud83d", END, " " * 17, "\x00", "\ufeff", "▁", "<0x41>"):
        assert part in joined, repr(part)
    assert text_of(b"") == ""

"""Aligners on small vocabularies: prefix targets against the definition, oracles, saving and loading."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignment_reference import (
    ALPHABET,
    END,
    SENTENCES,
    SlowPrefix,
    as_dense,
    byte_level_tokenizers,
    exhaustive,
    sentencepiece_bpe,
    trained_byte_level,
    vocabulary_bytes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from distillation.aligners import base, prefix
from distillation.aligners.base import Aligner, Rows
from distillation.aligners.build import ALIGNERS as ALL_ALIGNERS
from distillation.aligners.build import build_aligner, load_aligner
from distillation.errors import AlignmentError
from distillation.kernels.online_softmax import ChunkMemory, DenseRows
from distillation.tokenizers.pairs import EncodedPair, PairEncoder
from distillation.tokenizers.spans import Alignment
from distillation.tokenizers.token_bytes import tokens_as_bytes
from distillation.tokenizers.vocabularies import map_specials

# Those whose targets are made from log-probabilities; the others are tested where they are trained.
ALIGNERS = [name for name, (kind, _) in ALL_ALIGNERS.items() if kind.reads_log_probs]


def rows_of(pairs: list[EncodedPair], alignment: Alignment, tails: list[float] | None = None) -> Rows:
    """Return the rows of all positions with a target, in window order."""
    window, position = np.nonzero(alignment.teacher_position_BT >= 0)
    at = (window, position)
    row = alignment.teacher_position_BT[at]
    teacher = [pairs[w].teacher.ids[i] for w, i in zip(window, row, strict=True)]
    student = [pairs[w].student.ids[j] for w, j in zip(window, position, strict=True)]
    tail = alignment.num_tail_BT[at]
    logs = np.where(tail > 0, -0.5, 0.0) if tails is None else np.array(tails)
    return Rows(
        teacher_token_N=torch.tensor(np.array(teacher, dtype=np.int64)),
        student_token_N=torch.tensor(np.array(student, dtype=np.int64)),
        num_emitted_N=torch.tensor(alignment.num_emitted_BT[at]),
        num_tail_N=torch.tensor(tail),
        tail_log_prob_N=torch.tensor(logs, dtype=torch.float32),
    )


def random_log_probs(num_rows: int, num_columns: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, num_columns, generator=generator) * scale).log_softmax(-1)


def slow_prefix(teacher: Tokenizer, student: Tokenizer, num_student_rows: int) -> SlowPrefix:
    specials = {teacher.token_to_id(END): student.token_to_id(END)}
    return SlowPrefix(teacher, student, specials, num_student_rows)


def assert_targets_equal(aligner: Aligner, slow: SlowPrefix, rows: Rows, log_probs: torch.Tensor) -> None:
    targets = aligner.targets(log_probs, rows)
    assert torch.isfinite(targets.probabilities_NV).all()
    for n in range(len(rows)):
        mass, _ = slow.target(
            log_probs[n].tolist(),
            int(rows.teacher_token_N[n]),
            int(rows.student_token_N[n]),
            int(rows.num_emitted_N[n]),
            int(rows.num_tail_N[n]),
            float(rows.tail_log_prob_N[n]),
        )
        assert math.fsum(mass.values()) == pytest.approx(1.0, abs=1e-5)
        dense, residual = as_dense(mass, slow.num_student_rows)
        assert targets.residual_N[n] == pytest.approx(residual, abs=1e-5)
        if targets.usable_N[n]:
            assert targets.probabilities_NV[n].tolist() == pytest.approx(dense, abs=1e-5)
        else:
            assert residual > 1 - 1e-5
        assert float(targets.probabilities_NV[n].sum()) == pytest.approx(1.0, abs=1e-5)


TEXTS = st.lists(st.text(ALPHABET, min_size=1, max_size=14), min_size=1, max_size=3)


@exhaustive
@given(byte_level_tokenizers(), byte_level_tokenizers(), TEXTS, st.integers(0, 5), st.integers(0, 10**6))
def test_prefix_targets_equal_the_definition(
    teacher: Tokenizer, student: Tokenizer, texts: list[str], extra: int, seed: int
) -> None:
    num_teacher, num_student = teacher.get_vocab_size() + extra, student.get_vocab_size() + extra // 2
    aligner = build_aligner(
        "prefix", teacher, student, num_teacher_rows=num_teacher, num_student_rows=num_student
    )
    pairs = [pair for pair in PairEncoder(teacher, student).encode(texts) if pair is not None]
    rows = rows_of(pairs, aligner.align(pairs))
    if aligner.details["identical_tokenizers"]:
        return  # Row i is row i then: another test.
    log_probs = random_log_probs(len(rows), num_teacher, seed)
    assert_targets_equal(aligner, slow_prefix(teacher, student, num_student), rows, log_probs)


def check_certain_teacher(
    aligner: Aligner, encoder: PairEncoder, pairs: list[EncodedPair], alignment: Alignment
) -> None:
    """With all mass on the real text, the target is the student's own token, and so writes that text."""
    rows = rows_of(pairs, alignment, tails=[0.0] * int((alignment.teacher_position_BT >= 0).sum()))
    log_probs = torch.full((len(rows), aligner.num_teacher_rows), -torch.inf)
    log_probs[torch.arange(len(rows)), rows.teacher_token_N] = 0.0
    targets = aligner.targets(log_probs, rows)
    assert targets.usable_N.all()
    assert targets.probabilities_NV.max(-1).values.tolist() == pytest.approx([1.0] * len(rows))
    window_N, position_N = np.nonzero(alignment.teacher_position_BT >= 0)
    chosen = targets.probabilities_NV.argmax(-1).tolist()
    for n, (window, position) in enumerate(zip(window_N, position_N, strict=True)):
        student = pairs[window].student
        rest = encoder.student_bytes.join(student.ids)[student.begins[position] :]
        assert rest.startswith(encoder.student_bytes.table[chosen[n]] or b"never")
        assert chosen[n] == student.ids[position]


@settings(exhaustive, max_examples=60)
@given(byte_level_tokenizers(), byte_level_tokenizers(), TEXTS)
def test_a_certain_teacher_points_at_the_text(
    teacher: Tokenizer, student: Tokenizer, texts: list[str]
) -> None:
    aligner = built("prefix", teacher, student)
    encoder = PairEncoder(teacher, student)
    pairs = [pair for pair in encoder.encode(texts) if pair is not None and pair.losses is None]
    check_certain_teacher(aligner, encoder, pairs, aligner.align(pairs))


@pytest.mark.parametrize("shift", [-1, 1])
def test_planted_off_by_one_is_caught(trained: tuple[Tokenizer, Tokenizer], shift: int) -> None:
    aligner, encoder = built("prefix", *trained), PairEncoder(*trained)
    pairs = [pair for pair in encoder.encode(SENTENCES) if pair is not None]
    alignment = aligner.align(pairs)
    check_certain_teacher(aligner, encoder, pairs, alignment)
    lengths = np.array([len(pair.teacher.ids) for pair in pairs])[:, None]
    position_BT = alignment.teacher_position_BT
    moved_BT = np.where(position_BT >= 0, np.clip(position_BT + shift, 0, lengths - 1), -1)
    with pytest.raises((AssertionError, ValueError)):
        check_certain_teacher(
            aligner, encoder, pairs, dataclasses.replace(alignment, teacher_position_BT=moved_BT)
        )


def targets_by_hand(student_token: str, tail_probability: float | None) -> dict[str, float]:
    """Targets one byte inside the teacher's token "ab", with p = 0.3 of "ab" and 0.1 of "ac"."""
    teacher, student = (
        Tokenizer(models.BPE({t: i for i, t in enumerate(words)}, []))
        for words in (("a", "b", "c", "ab", "ac", "d"), ("a", "b", "c", "bc", "d"))
    )
    for tokenizer in (teacher, student):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    aligner = build_aligner("prefix", teacher, student, num_teacher_rows=6, num_student_rows=5)
    rows = Rows(
        teacher_token_N=torch.tensor([3]),
        student_token_N=torch.tensor([student.token_to_id(student_token)]),
        num_emitted_N=torch.tensor([1]),
        num_tail_N=torch.tensor([0 if tail_probability is None else 1]),
        tail_log_prob_N=torch.tensor([math.log(tail_probability or 1.0)]),
    )
    log_probs = torch.tensor([[0.1, 0.1, 0.2, 0.3, 0.1, 0.2]]).log()
    row = aligner.targets(log_probs, rows).probabilities_NV[0].tolist()
    return {student.id_to_token(index): round(value, 5) for index, value in enumerate(row) if value}


def test_by_hand_inside_a_token_and_past_its_end() -> None:
    # C_r = {ab, ac}: 0.75 and 0.25, writing "b" and "c".
    assert targets_by_hand("b", None) == {"b": 0.75, "c": 0.25}
    # The text goes on with "c", teacher ab|c with p(c) = 0.4, and the student's token is "bc": 0.75 x 0.4.
    assert targets_by_hand("bc", 0.4) == {"b": 0.45, "bc": 0.3, "c": 0.25}


@pytest.fixture(scope="module")
def trained() -> tuple[Tokenizer, Tokenizer]:
    return trained_byte_level(420), trained_byte_level(310, split_digits=True)


def built(strategy: str, teacher: Any, student: Any, more: tuple[int, int] = (8, 3)) -> Aligner:
    return build_aligner(
        strategy,
        teacher,
        student,
        num_teacher_rows=teacher.get_vocab_size() + more[0],
        num_student_rows=student.get_vocab_size() + more[1],
    )


def positions(aligner: Aligner, teacher: Any, student: Any) -> Rows:
    pairs = [pair for pair in PairEncoder(teacher, student).encode(SENTENCES) if pair is not None]
    return rows_of(pairs, aligner.align(pairs))


def test_prefix_on_trained_tokenizers_equals_the_definition(trained: tuple[Tokenizer, Tokenizer]) -> None:
    teacher, student = trained
    aligner = built("prefix", teacher, student)
    rows = positions(aligner, teacher, student)
    assert (rows.num_emitted_N > 0).sum() >= 20
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 0)
    slow = slow_prefix(teacher, student, aligner.num_student_rows)
    assert_targets_equal(aligner, slow, rows, log_probs)
    # The other way round the student's tokens run past the teacher's.
    aligner = built("prefix", student, teacher)
    rows = positions(aligner, student, teacher)
    assert (rows.num_tail_N > 0).sum() >= 20
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 1)
    assert_targets_equal(aligner, slow_prefix(student, teacher, aligner.num_student_rows), rows, log_probs)


@pytest.mark.parametrize("strategy", ALIGNERS)
@pytest.mark.parametrize("tile_size", [3, 1000])
def test_rows_that_positions_share_are_read_once(
    trained: tuple[Tokenizer, Tokenizer], monkeypatch: Any, strategy: str, tile_size: int
) -> None:
    aligner = built(strategy, *trained)
    rows = positions(aligner, *trained)[:90]
    monkeypatch.setattr(base, "ROW_ENTRIES", 20 * aligner.num_teacher_rows)
    row_N = torch.arange(len(rows)) // 3
    logits_RU = 5 * random_log_probs(30, aligner.num_teacher_rows, 4)
    logits_RU[:10, aligner.num_teacher_rows // 2 :] += 200.0  # moves the reference of a softmax in tiles
    found = aligner.targets_of(DenseRows(logits_RU, tile_size), row_N, rows)
    expected = aligner.targets(logits_RU.log_softmax(-1)[row_N], rows)
    for name in ("probabilities_NV", "residual_N"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.usable_N, expected.usable_N)


def test_targets_outlive_the_logits_that_they_were_made_of(trained: tuple[Tokenizer, Tokenizer]) -> None:
    aligner, memory = built("prefix", *trained), ChunkMemory()
    rows = positions(aligner, *trained)
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 5)
    expected = aligner.targets(log_probs, rows)
    for _ in range(2):  # at first the memory is new, then it is full of something else
        found = aligner.targets_of(DenseRows(log_probs), torch.arange(len(rows)), rows, memory)
        memory.logits.empty(1000, 100, log_probs.device).fill_(torch.nan)
        assert torch.equal(found.probabilities_NV, expected.probabilities_NV)


def test_small_chunks_change_nothing(trained: tuple[Tokenizer, Tokenizer], monkeypatch: Any) -> None:
    teacher, student = trained
    aligner = built("prefix", teacher, student)
    rows = positions(aligner, teacher, student)
    rows = Rows(*(getattr(rows, field.name)[:80] for field in dataclasses.fields(Rows)))
    assert (rows.num_emitted_N > 0).sum() >= 10
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 3)
    whole = aligner.targets(log_probs, rows)
    for entries in (1, 700):
        monkeypatch.setattr(prefix, "MAX_ENTRIES", entries)
        pieces = aligner.targets(log_probs, rows)
        torch.testing.assert_close(pieces.probabilities_NV, whole.probabilities_NV, rtol=0, atol=1e-7)


def test_misaligned_rows_raise(trained: tuple[Tokenizer, Tokenizer]) -> None:
    aligner = built("prefix", *trained)
    rows = positions(aligner, *trained)
    wrong = dataclasses.replace(rows, num_emitted_N=rows.num_emitted_N + 200)
    with pytest.raises(ValueError, match="rows are misaligned"):
        aligner.targets(random_log_probs(len(rows), aligner.num_teacher_rows, 0), wrong)


@pytest.mark.parametrize("strategy", ALIGNERS)
def test_equal_tokenizers_give_the_softmax(strategy: str, trained: tuple[Tokenizer, Tokenizer]) -> None:
    tokenizer = trained[0]
    aligner = built(strategy, tokenizer, Tokenizer.from_str(tokenizer.to_str()), (8, 8))
    rows = positions(aligner, tokenizer, tokenizer)
    assert len(rows) == sum(len(tokenizer.encode(text).ids) for text in SENTENCES)
    logits = torch.randn(len(rows), aligner.num_teacher_rows, generator=torch.Generator().manual_seed(0)) * 4
    targets = aligner.targets(logits.log_softmax(-1), rows)
    expected = logits.double().softmax(-1).float()
    torch.testing.assert_close(targets.probabilities_NV, expected, rtol=0, atol=1e-6)
    assert targets.residual_N.abs().max() < 1e-5
    assert targets.usable_N.all()
    support = aligner.student_support_V
    assert support is None or support.all()


@pytest.mark.parametrize(("more", "expected"), [((8, 3), "cut"), ((3, 8), "filled")])
@pytest.mark.parametrize("strategy", ALIGNERS)
def test_equal_tokenizers_under_other_output_layers(
    strategy: str, more: tuple[int, int], expected: str, trained: tuple[Tokenizer, Tokenizer]
) -> None:
    aligner = built(strategy, trained[0], trained[0], more)
    rows = positions(aligner, trained[0], trained[0])
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 2)
    targets = aligner.targets(log_probs, rows)
    both = min(aligner.num_teacher_rows, aligner.num_student_rows)
    renormalised = log_probs[:, :both].log_softmax(-1).exp()
    torch.testing.assert_close(targets.probabilities_NV[:, :both], renormalised, rtol=0, atol=1e-6)
    assert not targets.probabilities_NV[:, both:].any()
    support = aligner.student_support_V
    if expected == "filled" and strategy in ("shared", "truncate"):
        assert support is not None
        assert support.tolist() == [index < both for index in range(aligner.num_student_rows)]


def test_shared_restricts_both_sides_to_common_strings(trained: tuple[Tokenizer, Tokenizer]) -> None:
    teacher, student = trained
    aligner = built("shared", teacher, student)
    rows = positions(aligner, teacher, student)
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 5)
    targets = aligner.targets(log_probs, rows)
    ours, theirs = vocabulary_bytes(student), {t: i for i, t in vocabulary_bytes(teacher).items()}
    common = {s: theirs[t] for s, t in ours.items() if t in theirs}
    common[student.token_to_id(END)] = teacher.token_to_id(END)
    support = aligner.student_support_V
    assert support is not None
    assert {s for s, inside in enumerate(support.tolist()) if inside} == set(common)
    for n in range(0, len(rows), 7):
        weights = {s: math.exp(log_probs[n, t]) for s, t in common.items()}
        total = math.fsum(weights.values())
        dense = [weights.get(s, 0.0) / total for s in range(aligner.num_student_rows)]
        assert targets.probabilities_NV[n].tolist() == pytest.approx(dense, abs=1e-6)
        assert float(targets.residual_N[n]) == pytest.approx(1 - total, abs=1e-5)
    assert not rows.num_emitted_N.any()
    same = [tokens_as_bytes(t).table for t in trained]
    for one, other in zip(rows.teacher_token_N.tolist(), rows.student_token_N.tolist(), strict=True):
        assert same[0][one] == same[1][other]


def test_rows_without_writable_mass_are_marked(trained: tuple[Tokenizer, Tokenizer]) -> None:
    teacher, student = trained
    for strategy in ALIGNERS:
        aligner = built(strategy, teacher, student)
        rows = positions(aligner, teacher, student)
        boundary = (rows.num_emitted_N == 0).nonzero().squeeze(1)[:2]
        rows = Rows(*(getattr(rows, field.name)[boundary] for field in dataclasses.fields(Rows)))
        rows = dataclasses.replace(rows, num_tail_N=torch.zeros(2, dtype=torch.int32))
        log_probs = torch.full((2, aligner.num_teacher_rows), -torch.inf)
        log_probs[0, -1] = 0.0  # A row of the output layer without any token.
        log_probs[1, int(rows.teacher_token_N[1]) if strategy in ("prefix", "shared") else 0] = 0.0
        targets = aligner.targets(log_probs, rows)
        assert targets.usable_N.tolist() == [False, True], strategy
        assert targets.residual_N.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
        assert targets.probabilities_NV[0].argmax() == rows.student_token_N[0]
        assert targets.probabilities_NV.sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_half_precision_teachers_are_reduced_in_float32(trained: tuple[Tokenizer, Tokenizer]) -> None:
    for strategy in ALIGNERS:
        aligner = built(strategy, *trained)
        rows = positions(aligner, *trained)
        log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 6).to(torch.bfloat16)
        kept = log_probs.clone()
        targets = aligner.targets(log_probs, rows)
        assert targets.probabilities_NV.dtype == targets.residual_N.dtype == torch.float32
        assert (targets.probabilities_NV.sum(-1) - 1).abs().max() < 1e-5
        assert torch.equal(log_probs, kept), "inputs are never mutated"
        assert not targets.probabilities_NV.requires_grad


def test_no_rows(trained: tuple[Tokenizer, Tokenizer]) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    rows = Rows(empty, empty, empty, empty, empty.float())
    for strategy in ALIGNERS:
        aligner = built(strategy, *trained)
        targets = aligner.targets(torch.zeros(0, aligner.num_teacher_rows), rows)
        assert targets.probabilities_NV.shape == (0, aligner.num_student_rows)


def test_sentencepiece_teacher_conserves_mass() -> None:
    teacher, student = sentencepiece_bpe(), trained_byte_level(310)
    for one, other in ((teacher, student), (student, teacher)):
        aligner = built("prefix", one, other)
        pairs = [p for p in PairEncoder(one, other).encode(["the dogs the dog", "a 日本"]) if p]
        rows = rows_of(pairs, aligner.align(pairs))
        log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 7)
        targets = aligner.targets(log_probs, rows)
        assert (targets.probabilities_NV.sum(-1) - 1).abs().max() < 1e-5
        assert targets.usable_N.all()
    # Written alone, a word gets a space in front; inside a text " the" is one token of the student.
    the = next(i for i, t in enumerate(tokens_as_bytes(student).table) if t == b" the")
    assert aligner.tables["first_token"][the] == teacher.token_to_id("▁the")


def test_specials_map_by_text_then_by_role(trained: tuple[Tokenizer, Tokenizer]) -> None:
    one, other = (tokens_as_bytes(tokenizer) for tokenizer in trained)
    one = dataclasses.replace(
        one, special_strings={END: 0, "<s>": 7, "<x>": 8}, special_roles={"eos": 7, "bos": 8, "pad": 8}
    )
    other = dataclasses.replace(
        other, special_strings={END: 3, "</s>": 4}, special_roles={"eos": 4, "pad": 5}
    )
    assert map_specials(one, other) == {0: 3, 7: 4, 8: 5}
    assert map_specials(one, other, by_role=False) == {0: 3}


@pytest.mark.parametrize("strategy", ALIGNERS)
def test_saved_and_loaded_to_the_bit(
    strategy: str, trained: tuple[Tokenizer, Tokenizer], tmp_path: Path
) -> None:
    aligner = built(strategy, *trained, (2, 200))
    aligner.save(tmp_path / "deep" / "aligner")
    loaded = load_aligner(tmp_path / "deep" / "aligner").to("cpu")
    assert type(loaded) is type(aligner)
    assert loaded.details == aligner.details
    rows = positions(aligner, *trained)
    log_probs = random_log_probs(len(rows), aligner.num_teacher_rows, 8)
    one, other = aligner.targets(log_probs, rows), loaded.targets(log_probs, rows)
    assert torch.equal(one.probabilities_NV, other.probabilities_NV)
    assert torch.equal(one.residual_N, other.residual_N)
    supports = (aligner.student_support_V, loaded.student_support_V)
    assert (supports[0] is None) == (supports[1] is None)
    content = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "aligner").iterdir()}
    loaded.save(tmp_path / "again")
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_damaged_aligners_are_refused(trained: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="build the aligner again"):
        load_aligner(tmp_path)
    built("prefix", *trained).save(tmp_path)
    tables = tmp_path / "aligner.safetensors"
    content = bytearray(tables.read_bytes())
    content[-1] ^= 1
    tables.write_bytes(content)
    with pytest.raises(AlignmentError, match="is not what was saved"):
        load_aligner(tmp_path)
    (tmp_path / "aligner.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(AlignmentError, match="not of format 2"):
        load_aligner(tmp_path)


def test_building_refuses_what_cannot_work(trained: tuple[Tokenizer, Tokenizer]) -> None:
    with pytest.raises(AlignmentError, match=f"'by_rank': use one of {', '.join(ALL_ALIGNERS)}$"):
        built("by_rank", *trained)
    with pytest.raises(AlignmentError, match="the output layer has 5 rows but the tokenizer 310 tokens"):
        build_aligner("prefix", *trained, num_teacher_rows=420, num_student_rows=5)

"""The aligner `projection` against its definition by dictionaries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignment_reference import (
    END,
    SENTENCES,
    byte_level_tokenizers,
    exhaustive,
    sentencepiece_bpe,
    trained_byte_level,
    vocabulary_bytes,
)
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distillation.aligners import projection
from distillation.aligners.base import Aligner, Rows
from distillation.aligners.build import build_aligner
from distillation.tokenizers.pairs import PairEncoder

NUM_TEACHER_ROWS, NUM_STUDENT_ROWS = 151_936, 49_152


def slow_weights(teacher: Tokenizer, student: Tokenizer) -> dict[int, dict[int, float]]:
    """W by its definition: student id -> teacher id -> weight."""
    theirs = {token: index for index, token in sorted(vocabulary_bytes(teacher).items())}
    bytes_of = vocabulary_bytes(teacher)
    added = [i for i in bytes_of if i in teacher.get_added_tokens_decoder()]
    theirs |= {bytes_of[index]: index for index in added}  # the tokenizer finds those first
    ours: dict[bytes, int] = {}
    for index, token in sorted(vocabulary_bytes(student).items()):
        if token not in ours or index in student.get_added_tokens_decoder():
            ours[token] = index
    weights: dict[int, dict[int, float]] = {}
    for token, index in ours.items():
        if token in theirs:
            weights[index] = {theirs[token]: 1.0}
            continue
        pieces = slow_pieces(token, teacher, bytes_of, theirs)[:4]
        raw = [0.9 * 0.1**place for place in range(len(pieces))]
        row: dict[int, float] = {}
        for piece, weight in zip(pieces, raw, strict=True):
            row[piece] = row.get(piece, 0.0) + weight / sum(raw)
        if row:
            weights[index] = row
    if teacher.token_to_id(END) is not None and student.token_to_id(END) is not None:
        weights.setdefault(student.token_to_id(END), {})[teacher.token_to_id(END)] = 1.0
    return weights


def slow_pieces(token: bytes, teacher: Tokenizer, bytes_of: Any, theirs: dict[bytes, int]) -> list[int]:
    try:
        ids = teacher.encode(token.decode("utf-8"), add_special_tokens=False).ids
        if ids and b"".join(bytes_of.get(i, b"") for i in ids) == token:
            return list(ids)
    except UnicodeDecodeError:
        pass
    pieces, rest = [], token
    while rest:
        size = next((n for n in range(len(rest), 0, -1) if rest[:n] in theirs), None)
        if size is None:
            break
        pieces.append(theirs[rest[:size]])
        rest = rest[size:]
    return pieces


def slow_target(weights: dict[int, dict[int, float]], probabilities: list[float]) -> dict[int, float]:
    total: dict[int, float] = {}
    for row in weights.values():
        for teacher, weight in row.items():
            total[teacher] = total.get(teacher, 0.0) + weight
    return {
        student: math.fsum(probabilities[t] * weight / total[t] for t, weight in row.items())
        for student, row in weights.items()
    }


def boundary_rows(number: int) -> Rows:
    zeros = torch.zeros(number, dtype=torch.int64)
    return Rows(zeros, zeros, zeros, zeros, torch.zeros(number))


def build(teacher: Any, student: Any) -> Aligner:
    sizes = teacher.get_vocab_size() + 5, student.get_vocab_size() + 3
    return build_aligner("projection", teacher, student, num_teacher_rows=sizes[0], num_student_rows=sizes[1])


def assert_equals_the_definition(
    aligner: Aligner, weights: dict[int, dict[int, float]], num_rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, aligner.num_teacher_rows, generator=generator) * 3
    log_probs = logits.double().log_softmax(-1).float()
    targets = aligner.targets(log_probs, boundary_rows(num_rows))
    used = {t for row in weights.values() for t in row}
    for n in range(num_rows):
        probabilities = log_probs[n].double().exp().tolist()
        mass = slow_target(weights, probabilities)
        written = math.fsum(mass.values())
        lost = math.fsum(p for t, p in enumerate(probabilities) if t not in used)
        assert written + lost == pytest.approx(1.0, abs=1e-6), "the definition conserves mass"
        assert float(targets.residual_N[n]) == pytest.approx(lost, abs=1e-5)
        if not targets.usable_N[n]:
            assert written < 1e-5
            continue
        dense = np.zeros(aligner.num_student_rows)
        dense[list(mass)] = np.array(list(mass.values())) / written
        assert np.abs(targets.probabilities_NV[n].numpy() - dense).max() < 1e-6
        assert float(targets.probabilities_NV[n].sum()) == pytest.approx(1.0, abs=1e-5)


@exhaustive
@given(byte_level_tokenizers(), byte_level_tokenizers(), st.integers(0, 10**6))
def test_targets_equal_the_definition(teacher: Tokenizer, student: Tokenizer, seed: int) -> None:
    aligner = build(teacher, student)
    if aligner.details["identical_tokenizers"]:
        return  # Row i is row i then.
    assert_equals_the_definition(aligner, slow_weights(teacher, student), 3, seed)


@pytest.fixture(scope="module")
def trained() -> tuple[Tokenizer, Tokenizer]:
    return trained_byte_level(420), trained_byte_level(310, split_digits=True)


@pytest.mark.parametrize("entries", [1, 1_000, 1 << 22])
def test_trained_tokenizers_in_chunks_of_any_size(
    entries: int, trained: tuple[Tokenizer, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "MAX_ENTRIES", entries)
    for teacher, student in (trained, trained[::-1]):
        aligner = build(teacher, student)
        assert_equals_the_definition(aligner, slow_weights(teacher, student), 9, entries)
    assert aligner.details["num_rewritten_tokens"] > 50


def test_rows_of_the_matrix(trained: tuple[Tokenizer, Tokenizer]) -> None:
    student, teacher = trained
    aligner = build(teacher, student)
    students, counts = aligner.tables["student_token"].unique(return_counts=True)
    assert counts.max() <= projection.MAX_PIECES
    assert len(students) == student.get_vocab_size()
    columns = torch.zeros(aligner.num_teacher_rows).index_add_(
        0, aligner.tables["teacher_token"], aligner.tables["share"]
    )
    assert all(value == pytest.approx(1.0, abs=1e-6) or value == 0 for value in columns.tolist())


def test_targets_stand_at_shared_boundaries_only(trained: tuple[Tokenizer, Tokenizer]) -> None:
    aligner = build(*trained)
    pairs = [pair for pair in PairEncoder(*trained).encode(SENTENCES) if pair is not None]
    alignment = aligner.align(pairs)
    for window, pair in enumerate(pairs):
        shared = {0, *pair.teacher.ends.tolist()}
        expected = [begin in shared for begin in pair.student.begins.tolist()]
        used = alignment.teacher_position_BT[window, : len(expected)] >= 0
        assert used.tolist() == expected
        assert not all(expected)
    rows = boundary_rows(1)
    inside = Rows(rows.teacher_token_N, rows.student_token_N, torch.ones(1), rows.num_tail_N, torch.zeros(1))
    with pytest.raises(ValueError, match="shared boundaries only"):
        aligner.targets(torch.zeros(1, aligner.num_teacher_rows), inside)


def test_a_certain_teacher_points_at_the_token_that_both_have(trained: tuple[Tokenizer, Tokenizer]) -> None:
    aligner = build(*trained)
    teacher, student = vocabulary_bytes(trained[0]), {t: i for i, t in vocabulary_bytes(trained[1]).items()}
    common = [(index, student[token]) for index, token in teacher.items() if token in student]
    log_probs = torch.full((len(common), aligner.num_teacher_rows), -torch.inf)
    log_probs[torch.arange(len(common)), torch.tensor([index for index, _ in common])] = 0.0
    targets = aligner.targets(log_probs, boundary_rows(len(common)))
    assert targets.usable_N.all()
    assert targets.residual_N.abs().max() < 1e-6
    # Longer words that begin with the token get less than itself, each, and so it stays on top.
    assert targets.probabilities_NV.argmax(-1).tolist() == [index for _, index in common]


def test_other_families_conserve_mass() -> None:
    for pair in (
        (sentencepiece_bpe(), trained_byte_level(310)),
        (trained_byte_level(310), sentencepiece_bpe()),
    ):
        aligner = build(*pair)
        log_probs = torch.randn(5, aligner.num_teacher_rows).log_softmax(-1)
        targets = aligner.targets(log_probs, boundary_rows(5))
        assert targets.usable_N.all()
        assert (targets.probabilities_NV.sum(-1) - 1).abs().max() < 1e-5
        unused = torch.ones(aligner.num_teacher_rows, dtype=torch.bool)
        unused[aligner.tables["teacher_token"]] = False
        lost = log_probs.exp()[:, unused].sum(-1)
        torch.testing.assert_close(targets.residual_N, lost, rtol=0, atol=1e-5)


def test_the_real_pair(shared_dir: Path) -> None:
    teacher, student = (
        Tokenizer.from_file(str(shared_dir / "tokenizers" / name / "tokenizer.json"))
        for name in ("qwen2", "smollm")
    )
    aligner = build_aligner(
        "projection", teacher, student, num_teacher_rows=NUM_TEACHER_ROWS, num_student_rows=NUM_STUDENT_ROWS
    )
    weights = slow_weights(teacher, student)
    for name in ("<|im_start|>", "<|im_end|>"):
        weights[student.token_to_id(name)] = {teacher.token_to_id(name): 1.0}
    assert aligner.details["num_exact_tokens"] == 39_234 + 3
    assert aligner.details["num_weights"] == sum(map(len, weights.values()))
    assert_equals_the_definition(aligner, weights, 4, 0)

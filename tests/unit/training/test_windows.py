"""Windows: cut at shared boundaries, nothing twice, right shifts, an order that the epoch decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distillation.alignment import PairEncoder, build_aligner
from distillation.alignment.cutting import cut_pair
from distillation.config import ModelReference
from distillation.models import load_tokenizer
from distillation.training.windows import LengthBatchedSampler, WindowCollator, make_windows


@pytest.fixture(scope="module")
def tokenizers(tiny_teacher_dir: Path, tiny_student_dir: Path):
    return (
        load_tokenizer(ModelReference(path=str(tiny_teacher_dir)), "teacher"),
        load_tokenizer(ModelReference(path=str(tiny_student_dir)), "student"),
    )


@pytest.mark.parametrize("max_tokens", [5, 16, 63])
def test_windows_partition_each_document(tokenizers, english_documents: list[str], max_tokens: int) -> None:
    encoder = PairEncoder(*tokenizers)
    for pair, text in zip(encoder.encode(english_documents[:20]), english_documents, strict=False):
        windows = list(cut_pair(pair, max_tokens))
        assert all(len(window.student.ids) <= max_tokens for window in windows)
        assert all(len(window.teacher.ids) <= max_tokens for window in windows)
        for window in windows:
            assert window.student.ends[-1] == window.teacher.ends[-1] == window.num_bytes
            assert (np.diff(window.student.ends) > 0).all()
        student = np.concatenate([window.student.ids for window in windows])
        joined = b"".join(encoder.student_bytes.join(window.student.ids) for window in windows)
        teacher_joined = b"".join(encoder.teacher_bytes.join(window.teacher.ids) for window in windows)
        assert joined == teacher_joined
        if max_tokens > 16:  # no group of this pair is that long: nothing is left out
            assert np.array_equal(student, pair.student.ids)
            assert joined.decode() == text


def test_what_is_left_out_is_counted(tokenizers, english_documents: list[str]) -> None:
    encoder = PairEncoder(*tokenizers)
    windows = make_windows(encoder, english_documents[:10], 6)
    total = sum(len(pair.student.ids) for pair in encoder.encode(english_documents[:10]))
    counts = windows.counts
    assert counts.num_student_tokens + counts.num_student_tokens_left_out == total
    assert counts.num_windows == len(windows)


def test_a_refused_document_is_counted_and_left_out(tokenizers) -> None:
    windows = make_windows(PairEncoder(*tokenizers), ["fine text here", "bad \ud800 text"], 32)
    assert windows.counts.num_refused == 1
    assert len(windows) == 1


def test_row_j_predicts_token_j_plus_one(tokenizers) -> None:
    teacher, student = tokenizers
    aligner = build_aligner("prefix", teacher, student, num_teacher_rows=608, num_student_rows=400)
    pairs = PairEncoder(teacher, student).encode(["Return a list.", "x"])
    batch = WindowCollator(7, 9, aligner)(pairs)
    for index, pair in enumerate(pairs):
        size = len(pair.student.ids)
        assert batch["input_ids"][index, 0] == 7
        assert batch["teacher_input_ids"][index, 0] == 9
        assert batch["shift_labels"][index, :size].tolist() == pair.student.ids.tolist()
        assert batch["input_ids"][index, 1:size].tolist() == pair.student.ids[:-1].tolist()
        assert (batch["shift_labels"][index, size:] == -100).all()
        assert batch["attention_mask"][index].sum() == size
    assert (batch["teacher_position"][1, 1:] == -1).all()


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(np.random.default_rng(0).integers(1, 200, 1001))
    sampler = LengthBatchedSampler(lengths, 8, seed=3)
    first, again = list(sampler), list(LengthBatchedSampler(lengths, 8, seed=3))
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second) == list(range(1001))
    assert list(LengthBatchedSampler(lengths, 8, seed=4)) != first


def test_batches_hold_windows_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    order = np.array(list(LengthBatchedSampler(lengths.tolist(), 8, seed=0)))
    batches = lengths[order].reshape(-1, 8)
    padded = batches.max(1).sum() * 8
    assert padded / lengths.sum() < 1.1
    shuffled = np.random.default_rng(1).permutation(lengths).reshape(-1, 8)
    assert shuffled.max(1).sum() * 8 / lengths.sum() > 1.5

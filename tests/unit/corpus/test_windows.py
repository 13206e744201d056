"""Windows: cut at shared boundaries, nothing twice, right shifts, an order that the epoch decides."""

from __future__ import annotations

import copy
import itertools
import logging
from pathlib import Path

import numpy as np
import pytest

from distillation.aligners.build import build_aligner
from distillation.config import ModelReference
from distillation.corpus.corpus import dataset_of
from distillation.corpus.documents import Document, conversation_of
from distillation.corpus.windows import LengthBatchedSampler, WindowCollator, make_windows, remedy_for
from distillation.errors import AlignmentError
from distillation.models.load import load_tokenizer
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import PairEncoder


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


def test_what_is_not_used_of_texts_is_told_by_cause(tokenizers, caplog) -> None:
    """Plain texts as conversations: on the screen, in the counts and in the names of the metrics."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "dog": 2, "fox": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = PairEncoder(words, tokenizers[1])
    with caplog.at_level(logging.WARNING):
        windows = make_windows(encoder, ["the dog", "the quick fox", "quick", "the <s> fox"], 32)
    counts = windows.counts
    assert (counts.num_documents, counts.num_refused, counts.num_shortened, len(windows)) == (4, 1, 2, 3)
    assert counts.refusals == {"unknown token (teacher)": 1}
    num_lost = counts.lost["unknown token (teacher)"]
    assert "1 of 4 documents refused (unknown token (teacher): 1)" in caplog.text
    assert f"2 of 4 documents hold what one tokenizer cannot spell; positions lost, in refused ones too: "\
        f"unknown token (teacher): {num_lost}" in caplog.text  # fmt: skip
    named = counts.by_name()
    assert named["refused_documents"] == named["refused_documents/unknown_token_teacher"] == 1
    assert named["shortened_documents"] == 2
    assert named["lost_positions"] == named["lost_positions/unknown_token_teacher"] == num_lost
    assert named["windows"] == 3


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("no answer", "the role assistant"),
        ("the template changes a content (student)", "chat_template.jinja"),
        ("the template writes a token that the model has no row for (teacher)", "resize"),
        ("unknown token (student)", "can write this text"),
    ],
)
def test_the_remedy_is_that_of_the_commonest_cause(cause: str, remedy: str) -> None:
    assert remedy in remedy_for({"empty": 1, cause: 2})
    assert remedy_for({})


def test_lost_stretches_have_no_label_and_no_target(tokenizers) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "dog": 2, "fox": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    aligner = build_aligner("prefix", words, tokenizers[1], num_teacher_rows=4, num_student_rows=400)
    windows = make_windows(PairEncoder(words, tokenizers[1]), ["the dog quick the fox"], 32)
    batch = WindowCollator(0, 0, aligner)(windows.pairs)
    student = PairEncoder(words, tokenizers[1]).student_bytes
    labels = batch["shift_labels"][0]
    trained = student.join(labels[labels != -100].tolist())
    assert trained == b" the dog the fox"
    assert ((batch["teacher_position"][0] >= 0) == (labels != -100)).all()
    # The words around are read by both models: the last one is predicted with all before it.
    assert student.join(windows[0].student.ids) == b" the dog quick the fox"
    assert windows[0].teacher.ids.tolist() == [1, 2, 0, 1, 3]
    assert batch["teacher_position"][0][labels != -100].max() == 4


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"


@pytest.fixture
def talking(tokenizers):
    """Both tokenizers, each with a template; the student's writes a start token in front."""
    teacher, student = copy.deepcopy(tokenizers[0]), copy.deepcopy(tokenizers[1])
    teacher.chat_template = TEMPLATE
    student.chat_template = "{{ bos_token }}" + TEMPLATE.replace(": ", "\n")
    return teacher, student


def conversations(texts: list[str]):
    """The paragraphs of each text as a conversation."""
    documents = []
    for text in texts:
        parts = text.split("\n\n")
        roles = itertools.cycle(("user", "assistant"))
        messages = [{"role": role, "content": part} for role, part in zip(roles, parts, strict=False)]
        documents.append(conversation_of(messages, "somewhere"))
    return dataset_of(documents)


def test_windows_of_conversations(talking, english_documents: list[str]) -> None:
    encoder = PairEncoder(*talking)
    data = conversations(english_documents[:30])
    windows = make_windows(encoder, data, 64)
    counts = windows.counts
    assert counts.num_documents == 30
    assert counts.num_refused == encoder.refusals.total()
    assert counts.num_windows == len(windows) > 30
    assert counts.num_windows_without_answer > 0
    assert all(0 < len(pair.student.ids) < 64 and pair.trained.any() for pair in windows)
    whole = make_windows(encoder, data, 10_000)
    assert len(whole) == 30 - counts.num_refused
    total = sum(whole.lengths)
    assert counts.num_student_tokens + counts.num_student_tokens_left_out == total
    # The collator puts the start token in front: the template's own is taken off.
    assert all(pair.student.ids[0] != 0 for pair in whole)


def test_untrained_tokens_have_no_label(talking, english_documents: list[str]) -> None:
    teacher, student = talking
    aligner = build_aligner("prefix", teacher, student, num_teacher_rows=608, num_student_rows=400)
    windows = make_windows(PairEncoder(teacher, student), conversations(english_documents[:8]), 128)
    batch = WindowCollator(0, 0, aligner)(windows.pairs)
    labels = batch["shift_labels"].numpy()
    for index, pair in enumerate(windows):
        size = len(pair.student.ids)
        assert np.array_equal(labels[index, :size] != -100, pair.trained)
        assert (labels[index, :size][pair.trained] == pair.student.ids[pair.trained]).all()
        assert (labels[index, size:] == -100).all()
        assert batch["input_ids"][index, 1:size].tolist() == pair.student.ids[:-1].tolist()
        aligned = batch["teacher_position"][index, :size].numpy() >= 0
        assert np.array_equal(aligned, np.diff(pair.student.ends, prepend=0) > 0)
    assert 0.1 < (labels != -100).sum() / batch["attention_mask"].sum() < 0.9


def test_conversations_without_a_template_are_refused(tokenizers, english_documents: list[str]) -> None:
    with pytest.raises(AlignmentError, match=r"models\.teacher\.path = .* has no chat template"):
        make_windows(PairEncoder(*tokenizers), conversations(english_documents[:2]), 64)


def test_why_conversations_are_refused_is_said(talking, english_documents: list[str], caplog) -> None:
    data = conversations([*english_documents[:3], "a question without an answer"])
    with caplog.at_level(logging.WARNING):
        make_windows(PairEncoder(*talking), data, 64)
    assert "1 of 4 conversations refused (no answer: 1)" in caplog.text


def test_a_part_of_a_corpus_is_its_texts(tokenizers, english_documents: list[str]) -> None:
    data = dataset_of([Document(text, "") for text in english_documents[:5]])
    encoder = PairEncoder(*tokenizers)
    for one, other in zip(
        make_windows(encoder, data, 64), make_windows(encoder, data["text"], 64), strict=True
    ):
        assert np.array_equal(one.student.ids, other.student.ids)
        assert one.trained is None


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
    sampler = LengthBatchedSampler(lengths.tolist(), 8, seed=0)
    batches = lengths[np.array(list(sampler))].reshape(-1, 8)
    padded = batches.max(1).sum() * 8
    assert padded / lengths.sum() < 1.1
    assert sampler.padding_share() == pytest.approx(1 - lengths.sum() / padded)
    shuffled = np.random.default_rng(1).permutation(lengths).reshape(-1, 8)
    assert shuffled.max(1).sum() * 8 / lengths.sum() > 1.5

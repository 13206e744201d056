"""Agreement with the teacher: exact on itself, and equal to a reference written position by position."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from distillation.errors import AlignmentError
from distillation.evaluation.agreement import measure_agreement
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import PairEncoder


@pytest.fixture(scope="module")
def teacher(teacher_tokenizer, make_llama):
    return make_llama(len(teacher_tokenizer), seed=1)


def measure(teacher, teacher_tokenizer, student, student_tokenizer, texts, **settings):
    options = {"max_length": 128, "batch_size": 4, **settings}
    return measure_agreement(teacher, teacher_tokenizer, student, student_tokenizer, texts, **options)


def test_a_model_agrees_with_itself(llama, start_tokenizer, sentences):
    result = measure(llama, start_tokenizer, llama, start_tokenizer, sentences)
    assert result.top1_agreement == 1.0
    assert result.kl_divergence == pytest.approx(0.0, abs=1e-6)
    assert result.num_positions == result.num_student_tokens


def test_another_model_does_not(llama, make_llama, start_tokenizer, sentences):
    other = make_llama(len(start_tokenizer), seed=5)
    result = measure(other, start_tokenizer, llama, start_tokenizer, sentences)
    assert result.top1_agreement < 0.5
    assert result.kl_divergence > 0.5


def test_a_model_that_says_no_numbers_does_not_agree(llama, start_tokenizer, sentences):
    broken = copy.deepcopy(llama)
    broken.model.norm.weight.data.fill_(math.nan)
    assert math.isnan(measure(llama, start_tokenizer, broken, start_tokenizer, sentences).kl_divergence)


def test_equals_a_reference_over_two_tokenizers(
    teacher, teacher_tokenizer, llama, start_tokenizer, sentences
):
    """Reference: walk both token lists; where a token of each begins and ends at the same bytes, compare."""
    agreeing, divergences = [], []
    shared = [
        (teacher_tokenizer.get_vocab()[token], index)
        for token, index in start_tokenizer.get_vocab().items()
        if token in teacher_tokenizer.get_vocab()
    ]
    teacher_columns, student_columns = (list(column) for column in zip(*shared, strict=True))
    for text in sentences:
        rows = []
        for model, tokenizer, columns in (
            (teacher, teacher_tokenizer, teacher_columns),
            (llama, start_tokenizer, student_columns),
        ):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            lengths = [len(tokenizer.convert_ids_to_tokens(token)) for token in ids]  # one letter a byte
            ends = np.cumsum(lengths)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0]
            log_probs = logits[:, columns].log_softmax(-1)
            rows.append(
                {
                    (end - length, end): log_probs[k]
                    for k, (end, length) in enumerate(zip(ends, lengths, strict=True))
                }
            )
        for span in rows[0].keys() & rows[1].keys():
            p, q = rows[0][span], rows[1][span]
            agreeing.append(int(p.argmax() == q.argmax()))
            divergences.append(float((p.exp() * (p - q)).sum()))
    result = measure(teacher, teacher_tokenizer, llama, start_tokenizer, sentences)
    assert result.num_positions == len(agreeing) < result.num_student_tokens
    assert result.top1_agreement == pytest.approx(np.mean(agreeing))
    assert result.kl_divergence == pytest.approx(np.mean(divergences), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(
    teacher, teacher_tokenizer, llama, start_tokenizer, sentences, batch_size
):
    texts = [*sentences, *(sentence * 3 for sentence in sentences)]
    one = measure(teacher, teacher_tokenizer, llama, start_tokenizer, texts, max_length=32, batch_size=3)
    other = measure(
        teacher, teacher_tokenizer, llama, start_tokenizer, texts, max_length=32, batch_size=batch_size
    )
    assert one.num_positions == other.num_positions > 100
    assert one.top1_agreement == pytest.approx(other.top1_agreement)
    assert one.kl_divergence == pytest.approx(other.kl_divergence, rel=1e-5)


def test_kept_teacher_states_change_nothing(
    teacher, teacher_tokenizer, llama, make_llama, start_tokenizer, sentences
):
    other = make_llama(len(start_tokenizer), seed=9)
    states: dict = {}
    pair = (start_tokenizer, sentences)
    first = measure(teacher, teacher_tokenizer, llama, *pair, batch_size=2, teacher_states=states)
    assert len(states) == 2
    kept = measure(teacher, teacher_tokenizer, other, *pair, batch_size=2, teacher_states=states)
    assert len(states) == 2
    assert first == measure(teacher, teacher_tokenizer, llama, *pair, batch_size=2)
    assert kept == measure(teacher, teacher_tokenizer, other, *pair, batch_size=2)


@pytest.mark.parametrize("num_tokens", [3, 8, 20, 1000])
def test_cutting_keeps_the_text_and_fits(teacher_tokenizer, start_tokenizer, sentences, num_tokens):
    pair = PairEncoder(teacher_tokenizer, start_tokenizer).encode(["".join(sentences)])[0]
    pieces = list(cut_pair(pair, num_tokens))
    for piece in pieces:
        assert 0 < len(piece.teacher.ids) <= num_tokens
        assert 0 < len(piece.student.ids) <= num_tokens
        assert piece.teacher.ends[-1] == piece.student.ends[-1] == piece.num_bytes
        assert np.all(np.diff(piece.teacher.ends) > 0)
        assert piece.teacher.ends[0] > 0
    if num_tokens >= 20:
        assert np.concatenate([piece.student.ids for piece in pieces]).tolist() == pair.student.ids.tolist()
        assert np.concatenate([piece.teacher.ids for piece in pieces]).tolist() == pair.teacher.ids.tolist()


def test_only_the_first_bytes_are_compared(llama, start_tokenizer, sentences):
    few = measure(llama, start_tokenizer, llama, start_tokenizer, sentences, max_bytes=10)
    every = measure(llama, start_tokenizer, llama, start_tokenizer, sentences, max_bytes=None)
    assert 0 < few.num_positions < every.num_positions


def test_refused_documents_are_counted(llama, start_tokenizer, sentences):
    texts = ["a <|endoftext|> in the text", sentences[0], ""]
    assert measure(llama, start_tokenizer, llama, start_tokenizer, texts).num_refused_documents == 1
    nothing = measure(llama, start_tokenizer, llama, start_tokenizer, texts[2:])
    assert nothing.num_positions == 0
    assert nothing.top1_agreement is None


def test_without_a_start_token_it_is_refused(llama, start_tokenizer, bare_tokenizer, make_llama, sentences):
    with pytest.raises(AlignmentError, match="start token"):
        measure(make_llama(len(bare_tokenizer)), bare_tokenizer, llama, start_tokenizer, sentences)

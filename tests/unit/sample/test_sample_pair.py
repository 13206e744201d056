"""The embedded pair: small enough to ship, a real mixture of experts, and a teacher worth learning from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import distillation.sample
from distillation.config import ModelReference
from distillation.models.load import load_model, load_tokenizer

SAMPLE = Path(distillation.sample.__file__).parent
EMBEDDED = ModelReference()


def test_both_fit_in_ten_megabytes() -> None:
    sizes = [path.stat().st_size for path in SAMPLE.rglob("*.safetensors")]
    assert len(sizes) == 2
    assert sum(sizes) <= 10_000_000


def test_tokenizers_differ_and_the_student_splits_digits() -> None:
    teacher, student = load_tokenizer(EMBEDDED, "teacher"), load_tokenizer(EMBEDDED, "student")
    assert (len(teacher), len(student)) == (8192, 3072)
    assert student.convert_ids_to_tokens(student("1234", add_special_tokens=False)["input_ids"]) == list(
        "1234"
    )
    shared = set(teacher.get_vocab()) & set(student.get_vocab())
    same_id = [token for token in shared if teacher.get_vocab()[token] == student.get_vocab()[token]]
    assert len(same_id) < len(shared) / 2


def test_the_first_layer_is_dense_and_the_others_sparse() -> None:
    teacher = load_model(EMBEDDED, "teacher", dtype="float32")
    sparse = [hasattr(layer.mlp, "experts") for layer in teacher.model.layers]
    assert sparse == [False, True, True, True, True]
    assert teacher.config.num_experts == 4


@pytest.mark.slow
def test_the_teacher_is_far_ahead_on_text_it_has_not_seen() -> None:
    from distillation.corpus.documents import is_held_out
    from distillation.corpus.sources.documentation import iterate_documentation
    from distillation.evaluation.bits_per_byte import bits_per_byte

    held_out = (d.text for d in iterate_documentation() if is_held_out(d.document_id, 0.05))
    texts = [text[:2000] for text in itertools.islice(held_out, 12)]
    bits = {}
    for role in ("teacher", "student"):
        model = load_model(EMBEDDED, role, dtype="float32")
        tokenizer = load_tokenizer(EMBEDDED, role)
        result = bits_per_byte(model, tokenizer, texts, max_length=256, stride=192, batch_size=8)
        bits[role] = result.bits_per_byte
    assert bits["teacher"] < 0.8 * bits["student"]
    assert bits["student"] < 3.0, "the student has been trained on text for a while"

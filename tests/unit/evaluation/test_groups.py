"""Groups of documents part the whole, and their bits are those of the documents alone."""

from __future__ import annotations

import pytest

from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.groups import REST, document_labels, group_documents, text_kind, text_script
from distillation.evaluation.result import flat_metrics

PROSE = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 6
CODE = "def add(left, right):\n    total = left + right\n    return total\n\n\n" * 6
MATHS = "12 + 30 = 42\n3 * (4 + 5) = 27\n\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}\n" * 6


@pytest.mark.parametrize(
    ("text", "kind"),
    [(PROSE, "prose"), (CODE, "code"), (MATHS, "maths"), (PROSE + CODE * 2, "mixed"), (" \n\n ", "mixed"),
     ("", "mixed"), (PROSE * 4 + CODE, "prose")],
)  # fmt: skip
def test_kinds(text, kind):
    assert text_kind(text) == kind


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words, déjà vu", "Latin"),
        ("Мороз и солнце; день чудесный!", "Cyrillic"),
        ("人人生而自由,在尊严和权利上一律平等。", "Han"),
        ("すべての人間は、生まれながらにして自由であり", "Kana and Han"),
        ("모든 인간은 태어날 때부터 자유로우며", "Hangul"),
        ("Всё about one half and half наполовину", "mixed"),
        ("a" * 19 + "я", "Latin"),
        ("a" * 8 + "я", "mixed"),
        ("12 + 30 = 42", "none"),
        ("", "none"),
    ],
)
def test_scripts(text, script):
    assert text_script(text) == script


def test_groups_sum_to_the_whole(make_evaluation):
    evaluation = make_evaluation(text_only=2.2, distilled=2.1, teacher=1.5)
    assert set(evaluation.groups) == {"kind", "script", "source"}
    for groups in evaluation.groups.values():
        assert sum(group.num_documents for group in groups) == evaluation.num_held_out_documents
        for name, result in evaluation.results.items():
            assert sum(group.num_bytes[name] for group in groups) == result.num_bytes
            assert sum(group.bits[name] for group in groups) == pytest.approx(result.total_bits, rel=1e-12)


def test_a_group_is_its_documents_measured_alone(llama, start_tokenizer, sentences, make_evaluation):
    settings = {"max_length": 64, "stride": 32, "batch_size": 4}
    texts = [*sentences, *(sentence[::-1] for sentence in sentences)] * 3
    labels = ["straight" if place % 8 < 4 else "turned" for place in range(len(texts))]
    whole = bits_per_byte(llama, start_tokenizer, texts, **settings)
    template = make_evaluation(distilled=2.1, teacher=1.5).results["distilled"]
    result = template.model_copy(
        update={
            "per_document_bits": whole.per_document_bits,
            "per_document_bytes": whole.per_document_bytes,
        }
    )
    groups = {group.label: group for group in group_documents(labels, {"distilled": result})}
    for label, group in groups.items():
        chosen = [text for text, own in zip(texts, labels, strict=True) if own == label]
        alone = bits_per_byte(llama, start_tokenizer, chosen, **settings)
        assert group.num_bytes["distilled"] == alone.num_bytes
        assert group.bits_per_byte["distilled"] == pytest.approx(alone.bits_per_byte, rel=1e-5)
    assert groups["straight"].bits_per_byte != groups["turned"].bits_per_byte


def test_small_groups_are_put_together_and_marked(make_evaluation):
    results = make_evaluation(distilled=2.1, teacher=1.5).results
    labels = ["a"] * 20 + ["b"] * 14 + ["c"] * 4 + ["d"] * 2
    groups = group_documents(labels, results)
    assert [(group.label, group.num_documents, group.is_small) for group in groups] == [
        ("a", 20, False), ("b", 14, False), (REST, 6, False),
    ]  # fmt: skip
    assert groups[-1].merged == ("c", "d")
    alone = group_documents(["a"] * 36 + ["b"] * 4, results)
    assert [(group.label, group.is_small, group.merged) for group in alone] == [
        ("a", False, ()), ("b", True, ()),
    ]  # fmt: skip


def test_large_groups_are_metrics(make_evaluation):
    evaluation = make_evaluation(text_only=2.2, distilled=2.1, teacher=1.5)
    metrics = flat_metrics(evaluation)
    code = next(group for group in evaluation.groups["kind"] if group.label == "code")
    assert metrics["distilled.bits_per_byte_kind.code"] == code.bits_per_byte["distilled"]
    assert metrics["teacher.bits_per_byte_script.Latin"] == evaluation.results["teacher"].bits_per_byte
    assert metrics["teacher.first_token_ms"] == 21.4
    assert metrics["distilled.peak_memory_bytes"] == 22_300_000


def test_labels_are_one_a_document():
    labels = document_labels([PROSE, CODE], ["books", "sources"])
    assert labels == {"kind": ("prose", "code"), "script": ("Latin", "Latin"), "source": ("books", "sources")}
    assert "source" not in document_labels([PROSE])

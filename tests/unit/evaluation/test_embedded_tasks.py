"""Items of the two embedded tasks: what they say stands in the documents, and order changes nothing."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from distillation.evaluation.embedded_tasks import (
    CHOICE_CONTEXT,
    CLOZE_CONTEXT,
    MIN_ITEMS,
    NUM_CHOICES,
    PIECE_BYTES,
    choice_items,
    cloze_items,
    write_embedded_tasks,
)

CHINESE = [
    "他在北京的一家书店里买了三本关于历史的书，然后坐火车回家。第二天他开始读第一本书。" * 4 + str(k)
    for k in range(9)
]
CODE = [
    "\n".join(
        f"def make_{kind}_{number}(values, size):\n    sum = {number} * size\n    return combine(values, sum)"
        for number in range(8)
    )
    for kind in ("list", "table", "window", "mask", "batch")
]


def parts_of(item: dict) -> tuple[str, list[str]]:
    choices = list(item.get("choices", [item.get("target")]))
    return choices.pop(item.get("answer", 0)), choices


@pytest.mark.parametrize("make", [cloze_items, choice_items])
def test_the_order_of_documents_changes_nothing(make, english_documents):
    first = make(english_documents, 60)
    assert len(first) == 60
    shuffled = [*english_documents, *english_documents[:3]]
    random.Random(3).shuffle(shuffled)
    assert make(shuffled, 60) == first
    assert make(english_documents, 25) == first[:25]


@pytest.mark.parametrize("make", [cloze_items, choice_items])
def test_context_and_answer_stand_one_after_the_other(make, english_documents):
    for item in make(english_documents, 80):
        answer, others = parts_of(item)
        homes = [document for document in english_documents if item["context"] + answer in document]
        assert homes
        assert item["context"] == item["context"].rstrip()
        for other in others:
            assert not any(other.strip() in document for document in homes)
            assert any(other.strip() in document for document in english_documents)


def test_sizes_and_places(english_documents):
    items = choice_items(english_documents, 200)
    assert all(len(item["context"].encode()) <= CHOICE_CONTEXT for item in items)
    pieces = [choice.strip().encode() for item in items for choice in item["choices"]]
    assert max(map(len, pieces)) <= PIECE_BYTES[1]
    assert min(map(len, pieces)) >= PIECE_BYTES[0]
    assert all(len(set(item["choices"])) == NUM_CHOICES for item in items)
    counts = Counter(item["answer"] for item in items)
    assert all(counts[place] > len(items) / NUM_CHOICES / 2 for place in range(NUM_CHOICES))
    # Length is no clue: taking the longest, or the shortest, is about as good as a guess.
    for choose in (max, min):
        right = 0
        for item in items:
            sizes = [len(choice.encode()) for choice in item["choices"]]
            right += sizes.index(choose(sizes)) == item["answer"]
        assert right / len(items) < 0.4
    words = cloze_items(english_documents, 200)
    assert all(len(item["context"].encode()) <= CLOZE_CONTEXT for item in words)
    assert all(item["target"][0] in " \n" and item["target"].strip().isalpha() for item in words)


def test_every_document_contributes_before_any_does_twice(english_documents):
    items = choice_items(english_documents, 30)
    homes = Counter(
        document
        for item in items
        for document in english_documents
        if item["context"] + parts_of(item)[0] in document
    )
    assert max(homes.values()) <= 2  # a passage may stand in two documents


def test_text_without_spaces_and_program_code():
    assert {len(item["target"]) for item in cloze_items(CHINESE, 20)} == {2}
    assert all(item["target"].strip().isalpha() for item in cloze_items(CODE, 20))
    for documents in (CHINESE, CODE):
        for item in choice_items(documents, 20):
            assert any(item["context"] + parts_of(item)[0] in document for document in documents)
    assert len(cloze_items(CODE, 20)) == len(choice_items(CODE, 20)) == 20


@pytest.mark.parametrize("texts", [[], [""], ["Short."], ["No end " * 500], ["One document. " * 300]])
def test_too_little_text_is_left_out_with_a_reason(texts, tmp_path):
    written = write_embedded_tasks(("cloze", "choice"), texts, 200, tmp_path)
    assert "choice" in written.reasons
    assert "raise corpus.max_held_out_bytes" in written.reasons["choice"]
    assert set(written.names) | set(written.reasons) == {"cloze", "choice"}
    assert {file.stem for file in tmp_path.iterdir()} == set(written.names)


def test_one_word_many_times_is_one_item():
    assert (
        len(cloze_items(["The same sentence ends in the same word again and again.\n" * 50], 200)) < MIN_ITEMS
    )


def test_files_hold_the_items(tmp_path, english_documents):
    written = write_embedded_tasks(["choice"], english_documents, 40, tmp_path)
    assert written.names == ("choice",)
    lines = (tmp_path / "choice.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in lines] == choice_items(english_documents, 40)


def test_a_large_document_takes_a_moment(english_documents):
    """Work grows with the text, not with its square."""
    import time

    text = "".join(
        f"{document} Number {number} follows.\n" for number in range(6) for document in english_documents
    )
    begin = time.perf_counter()
    assert choice_items([text, *english_documents], 50)
    assert cloze_items([text], 50)
    assert time.perf_counter() - begin < 10

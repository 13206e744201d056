"""Stretches between common ends against a loop over tokens, and their sum against bits per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.token_view import (
    Passage,
    choose_passages,
    read_passages,
    view_passages,
)

WINDOWS = {"max_length": 128, "stride": 64}


@pytest.fixture(scope="module")
def teacher(teacher_tokenizer, make_llama):
    return make_llama(len(teacher_tokenizer), seed=1)


def whole(text: str) -> Passage:
    return Passage(0, "prose", text, len(text))


def reference(model, tokenizer, text: str) -> list[tuple[int, float]]:
    """(end in bytes, bits) of every token, one forward pass a token; the tokens have one letter a byte."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    end, found = 0, []
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].double()
        end += len(tokenizer.convert_ids_to_tokens(ids[place]))
        found.append((end, -float(logits.log_softmax(-1)[ids[place]]) / math.log(2.0)))
    return found


def test_stretches_equal_a_loop_over_tokens(teacher, teacher_tokenizer, llama, start_tokenizer, sentences):
    text = sentences[1]  # has characters of two and three bytes
    passages = [whole(text)]
    readings = {
        "teacher": read_passages(teacher, teacher_tokenizer, passages, **WINDOWS),
        "distilled": read_passages(llama, start_tokenizer, passages, **WINDOWS),
    }
    (view,) = view_passages(passages, readings)
    tokens = {
        "teacher": reference(teacher, teacher_tokenizer, text),
        "distilled": reference(llama, start_tokenizer, text),
    }
    characters = {len(text[:place].encode("utf-8")) for place in range(len(text) + 1)}
    common = {end for end, _ in tokens["teacher"]} & {end for end, _ in tokens["distilled"]} & characters
    ends = np.cumsum([len(stretch.encode("utf-8")) for stretch in view.stretches])
    assert ends.tolist() == sorted(common)
    assert 10 < len(view.stretches) < len(tokens["distilled"])
    for name, found in tokens.items():
        begin = 0
        for end, bits in zip(ends, view.bits[name], strict=True):
            assert bits == pytest.approx(sum(b for e, b in found if begin < e <= end), rel=1e-5)
            begin = end


def test_the_sum_is_that_of_bits_per_byte(llama, start_tokenizer, teacher, teacher_tokenizer, sentences):
    passages = [whole(text) for text in sentences]
    readings = {
        "distilled": read_passages(llama, start_tokenizer, passages, **WINDOWS),
        "teacher": read_passages(teacher, teacher_tokenizer, passages, **WINDOWS),
    }
    for name, model, tokenizer in (
        ("distilled", llama, start_tokenizer),
        ("teacher", teacher, teacher_tokenizer),
    ):
        measured = bits_per_byte(model, tokenizer, sentences, batch_size=2, **WINDOWS)
        views = view_passages(passages, readings)
        assert [view.text for view in views] == sentences
        sums = [sum(view.bits[name]) for view in views]
        np.testing.assert_allclose(sums, measured.per_document_bits, rtol=1e-5)


def test_long_documents_are_read_in_the_same_windows(llama, start_tokenizer, sentences):
    """A passage that is the beginning of a long document costs what the measure says of the same tokens."""
    text = sentences[0] * 5
    settings = {"max_length": 16, "stride": 4}
    (reading,) = read_passages(llama, start_tokenizer, [whole(text)], **settings)
    measured = bits_per_byte(llama, start_tokenizer, [text], batch_size=4, **settings)
    assert reading.bits.sum() == pytest.approx(measured.total_bits, rel=1e-5)
    (first,) = read_passages(llama, start_tokenizer, [Passage(0, "prose", text, 60)], **settings)
    assert first.ends[-1] <= 60 < reading.ends[len(first.ends)]
    np.testing.assert_allclose(first.bits[:15], reading.bits[:15], rtol=1e-5)


def test_what_nothing_predicts_has_no_bits(bare_tokenizer, make_llama, sentences):
    model = make_llama(len(bare_tokenizer))
    passages = [whole(sentences[0])]
    readings = {"teacher": read_passages(model, bare_tokenizer, passages, **WINDOWS)}
    (view,) = view_passages(passages, readings)
    assert view.bits["teacher"][0] is None
    assert None not in view.bits["teacher"][1:]
    measured = bits_per_byte(model, bare_tokenizer, [sentences[0]], batch_size=1, **WINDOWS)
    assert sum(view.bits["teacher"][1:]) == pytest.approx(measured.total_bits, rel=1e-5)


def test_a_model_whose_tokens_are_not_the_text_is_left_out(llama, start_tokenizer, sentences):
    """A lower-casing tokenizer reads other bytes than the page shows."""
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(start_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>")
    passages = [whole(sentences[0]), whole(sentences[2].lower())]
    found = read_passages(llama, lower, passages, **WINDOWS)
    assert found[0] is None
    assert found[1] is not None
    readings = {"teacher": read_passages(llama, start_tokenizer, passages, **WINDOWS), "distilled": found}
    first, second = view_passages(passages, readings)
    assert list(first.bits) == ["teacher"]
    assert list(second.bits) == ["teacher", "distilled"]
    assert view_passages(passages[:1], {"distilled": found}) == ()


def test_a_space_in_front_is_not_part_of_the_text(make_llama):
    """SentencePiece writes `▁` before the first word: ends count from the text itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate(["<s>", "▁", *"abcd", "▁ab"])}
    backend = Tokenizer(models.BPE(letters, [("▁", "a"), ("▁a", "b")] if "▁a" in letters else []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    passages = [whole("ab cd")]
    (reading,) = read_passages(make_llama(len(letters)), tokenizer, passages, **WINDOWS)
    (view,) = view_passages(passages, {"teacher": [reading]})
    assert view.stretches == ("a", "b", " ", "c", "d")
    assert sum(view.bits["teacher"]) == pytest.approx(
        reading.bits.sum()
    )  # with what the space in front costs


def test_passages_are_chosen_by_kind_and_length_and_cut_at_a_line():
    prose = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 20
    code = "def add(left, right):\n    total = left + right\n    return total\n\n\n" * 20
    unusual = "Cafe\u0301 " + prose  # normalisation would change it
    texts = ["short", unusual, code, prose, prose + prose]
    chosen = choose_passages(texts)
    assert [(passage.document, passage.kind) for passage in chosen] == [(2, "code"), (3, "prose")]
    for passage in chosen:
        shown = passage.text[: passage.num_characters]
        assert 600 < len(shown) <= 1200
        assert shown.endswith("\n")
    assert choose_passages(texts) == chosen
    assert [passage.document for passage in choose_passages(["a b c", "longest of all", ""])] == [1]
    assert choose_passages([" ", ""]) == ()

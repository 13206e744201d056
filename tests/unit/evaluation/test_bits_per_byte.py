"""Bits per byte against a token-by-token reference, and its invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distillation.errors import CorpusError, SettingsError
from distillation.evaluation.bits_per_byte import bits_per_byte, split_into_windows
from distillation.models.lm_head import LogitsReader


def reference_bits(model, ids: list[int], first: int, context: int | None = None) -> float:
    """Sum of -log2 p(ids[k] | at most `context` ids before it) for k >= first, one forward pass a token."""
    bits = 0.0
    with torch.no_grad():
        for k in range(first, len(ids)):
            begin = 0 if context is None else max(0, k - context)
            logits = model(input_ids=torch.tensor([ids[begin:k]])).logits[0, -1].double()
            bits -= float(torch.log_softmax(logits, dim=-1)[ids[k]]) / math.log(2.0)
    return bits


def encode(tokenizer, text: str) -> list[int]:
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_equals_the_naive_reference_with_full_context(llama, start_tokenizer, sentences):
    result = bits_per_byte(llama, start_tokenizer, sentences, max_length=128, stride=64, batch_size=3)
    expected = [reference_bits(llama, encode(start_tokenizer, text), 1) for text in sentences]
    np.testing.assert_allclose(result.per_document_bits, expected, rtol=1e-5)
    num_bytes = [len(text.encode("utf-8")) for text in sentences]
    assert result.per_document_bytes == tuple(num_bytes)
    assert result.bits_per_byte == pytest.approx(sum(expected) / sum(num_bytes), rel=1e-5)
    assert result.num_tokens == sum(len(encode(start_tokenizer, text)) - 1 for text in sentences)
    assert result.num_unscored_bytes == 0


def test_stride_one_equals_the_reference_with_bounded_context(llama, start_tokenizer, sentences):
    """With a stride of one token each later token has exactly max_length - 1 tokens before it."""
    text = sentences[0]
    result = bits_per_byte(llama, start_tokenizer, [text], max_length=9, stride=1, batch_size=4)
    expected = reference_bits(llama, encode(start_tokenizer, text), 1, context=8)
    assert result.total_bits == pytest.approx(expected, rel=1e-5)
    assert abs(expected - reference_bits(llama, encode(start_tokenizer, text), 1)) > 0.01


@pytest.mark.parametrize(("max_length", "stride"), [(16, 4), (16, 15), (33, 20), (128, 127)])
def test_batch_size_and_padding_do_not_change_it(llama, start_tokenizer, sentences, max_length, stride):
    results = [
        bits_per_byte(
            llama, start_tokenizer, sentences, max_length=max_length, stride=stride, batch_size=size
        )
        for size in (1, 5, 64)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result.per_document_bits, results[0].per_document_bits, rtol=1e-5)
        assert result.expected_calibration_error == pytest.approx(
            results[0].expected_calibration_error, abs=1e-5
        )
        assert result.num_tokens == results[0].num_tokens


def test_a_window_as_long_as_the_document_is_the_full_context(llama, start_tokenizer, sentences):
    text = sentences[2]
    length = len(encode(start_tokenizer, text))
    exact = bits_per_byte(llama, start_tokenizer, [text], max_length=length, stride=1, batch_size=1)
    longer = bits_per_byte(llama, start_tokenizer, [text], max_length=128, stride=1, batch_size=1)
    shorter = bits_per_byte(llama, start_tokenizer, [text], max_length=length - 1, stride=1, batch_size=2)
    assert exact.total_bits == pytest.approx(longer.total_bits, rel=1e-6)
    assert shorter.total_bits != pytest.approx(longer.total_bits, rel=1e-6)


@pytest.mark.parametrize("num_ids", [2, 7, 8, 9, 20, 31])
@pytest.mark.parametrize("stride", [1, 3, 7])
@pytest.mark.parametrize("first", [1, 3])
def test_every_token_is_scored_exactly_once(num_ids, stride, first):
    ids = np.arange(num_ids)
    scored: list[int] = []
    for window in split_into_windows(ids, first, 8, stride):
        assert 2 <= len(window.ids) <= 8
        assert window.first_scored >= 1
        scored.extend(window.ids[window.first_scored :].tolist())
    assert scored == list(range(first, num_ids))


def test_without_a_start_token_the_first_character_is_not_counted(bare_tokenizer, make_llama, sentences):
    model = make_llama(len(bare_tokenizer))
    text = "数" + sentences[0]  # the first character is three byte tokens
    ids = bare_tokenizer(text, add_special_tokens=False)["input_ids"]
    result = bits_per_byte(model, bare_tokenizer, [text], max_length=128, stride=64, batch_size=1)
    assert result.num_unscored_bytes == 3
    assert result.num_bytes == len(text.encode("utf-8")) - 3
    assert result.total_bits == pytest.approx(reference_bits(model, ids, 3), rel=1e-5)


def test_special_token_strings_in_a_text_are_spelt_out(llama, start_tokenizer):
    text = "before<|endoftext|>after"
    result = bits_per_byte(llama, start_tokenizer, [text], max_length=64, stride=32, batch_size=1)
    assert result.num_tokens > len(encode(start_tokenizer, text)) - 1
    assert result.num_bytes == len(text)


def test_uniform_model_needs_log2_of_the_vocabulary_a_token(start_tokenizer, make_llama, sentences):
    model = make_llama(len(start_tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    result = bits_per_byte(model, start_tokenizer, sentences, max_length=64, stride=32, batch_size=8)
    assert result.total_bits == pytest.approx(result.num_tokens * math.log2(len(start_tokenizer)), rel=1e-6)


def test_calibration_matches_its_definition(llama, start_tokenizer, sentences):
    text = sentences[0]
    ids = encode(start_tokenizer, text)
    with torch.no_grad():
        probabilities = llama(input_ids=torch.tensor([ids])).logits[0, :-1].softmax(-1)
    confidence, best = (values.numpy() for values in probabilities.max(-1))
    correct = best == np.asarray(ids[1:])
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    result = bits_per_byte(llama, start_tokenizer, [text], max_length=128, stride=64, batch_size=1)
    assert result.expected_calibration_error == pytest.approx(float(expected), abs=1e-5)
    assert result.accuracy == pytest.approx(correct.mean())


def test_a_model_that_changes_its_logits_is_read_through_its_own_forward(start_tokenizer, sentences):
    """Gemma 2 caps its logits after the output layer; reading the layer alone would be wrong."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(start_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
        final_logit_softcapping=1.5, initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    assert not LogitsReader(model).is_split
    result = bits_per_byte(model, start_tokenizer, sentences[:1], max_length=128, stride=64, batch_size=1)
    expected = reference_bits(model, encode(start_tokenizer, sentences[0]), 1)
    assert result.total_bits == pytest.approx(expected, rel=1e-4)


def test_the_output_layer_is_used_where_it_gives_the_logits(llama):
    assert LogitsReader(llama).is_split


def test_padding_on_the_right_needs_no_mask_unless_the_model_looks_ahead(llama, monkeypatch):
    ids, mask = torch.tensor([[1, 2, 3, 4, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    reader = LogitsReader(llama)
    assert reader.attention_mask(mask) is None
    with torch.no_grad():
        own = llama.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        torch.testing.assert_close(reader.states(ids, mask)[:, :4], own[:, :4])

    causal = llama.base_model.forward

    def looks_ahead(*args, **kwargs):
        outputs = causal(*args, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state + outputs.last_hidden_state.mean(
            1, keepdim=True
        )
        return outputs

    monkeypatch.setattr(llama.base_model, "forward", looks_ahead)
    assert LogitsReader(llama).attention_mask(mask) is mask


def test_the_training_mode_is_left_as_it_was(llama, start_tokenizer, sentences):
    llama.train()
    bits_per_byte(llama, start_tokenizer, sentences[:1], max_length=32, stride=16, batch_size=2)
    assert llama.training
    llama.eval()


def test_progress_is_told(llama, start_tokenizer, sentences):
    seen: list[tuple[int, int]] = []
    bits_per_byte(
        llama, start_tokenizer, sentences, max_length=16, stride=8, batch_size=4,
        on_windows=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1] > 4


def test_bad_input_gets_one_line(llama, start_tokenizer):
    with pytest.raises(CorpusError, match="empty"):
        bits_per_byte(llama, start_tokenizer, [""], max_length=32, stride=16, batch_size=2)
    with pytest.raises(SettingsError, match=r"evaluation\.stride = 32"):
        bits_per_byte(llama, start_tokenizer, ["a"], max_length=32, stride=32, batch_size=2)
    with pytest.raises(SettingsError, match=r"evaluation\.max_length = 4096: the model holds 128"):
        bits_per_byte(llama, start_tokenizer, ["a"], max_length=4096, stride=32, batch_size=2)

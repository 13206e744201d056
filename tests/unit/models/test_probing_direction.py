"""Models that read ahead are known by their configuration, whatever it calls the direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from distillation.models.inspect.direction import reads_ahead

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "bert-generation"])
@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("sizes", [{**SMALL, "intermediate_size": 64}, {}], ids=["small", "true"])
def test_encoders_read_ahead_and_decoders_do_not(
    family: str, is_decoder: bool, sizes: dict[str, Any]
) -> None:
    assert reads_ahead(AutoConfig.for_model(family, is_decoder=is_decoder, **sizes)) != is_decoder


def test_what_is_no_encoder_by_name_may_read_ahead() -> None:
    sizes = {**SMALL, "intermediate_size": 64}
    assert reads_ahead(AutoConfig.for_model("llama", is_causal=False, **sizes))
    assert not reads_ahead(AutoConfig.for_model("llama", **sizes))
    assert reads_ahead(AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True, **sizes))


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe", "GPT2", "GPTNeoX", "Gemma2", "Mixtral"])
def test_causal_families_do_not(make_config: Any, name: str) -> None:
    assert not reads_ahead(make_config(name))


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(make_config: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    reads_ahead(make_config("Llama"))
    assert torch.equal(torch.rand(4), expected)

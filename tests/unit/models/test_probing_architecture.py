"""Sizes and experts from the module tree, compared with models that are really built."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from distillation.errors import ModelError
from distillation.models.inspect.architecture import build_on_meta, probe_architecture, probe_experts


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe", "GPT2", "GPTNeoX", "Gemma2", "Mixtral"])
def test_sizes_equal_those_of_the_real_model(make_config, name) -> None:
    real = AutoModelForCausalLM.from_config(make_config(name))
    found = probe_architecture(build_on_meta(make_config(name)))
    assert found.num_parameters == sum(parameter.numel() for parameter in real.parameters())
    assert (found.num_layers, found.width, found.num_heads, found.head_width) == (3, 32, 4, 8)
    assert found.num_output_rows == 300
    assert found.num_key_value_heads == (4 if name in ("GPT2", "GPTNeoX") else 2)
    assert found.intermediate_size == (128 if name == "GPT2" else 64)
    assert found.tied_embeddings == (name in ("GPT2", "Gemma2", "Qwen3Moe"))
    assert found.max_positions == real.config.max_position_embeddings
    assert probe_architecture(real) == found


def test_tied_embeddings_are_counted_once(make_config) -> None:
    tied = probe_architecture(build_on_meta(make_config("Llama", tie_word_embeddings=True)))
    untied = probe_architecture(build_on_meta(make_config("Llama", tie_word_embeddings=False)))
    assert (tied.tied_embeddings, untied.tied_embeddings) == (True, False)
    assert untied.num_parameters - tied.num_parameters == 300 * 32


@pytest.mark.parametrize(
    ("changes", "sparse_layers"),
    [
        ({"mlp_only_layers": [1]}, (0, 2)),
        ({"mlp_only_layers": []}, (0, 1, 2)),
        ({"mlp_only_layers": [], "decoder_sparse_step": 2}, (1,)),
        ({"mlp_only_layers": [0, 2]}, (1,)),
    ],
)
def test_dense_layers_among_sparse_ones(make_config, changes, sparse_layers) -> None:
    model = build_on_meta(make_config("Qwen3Moe", **changes))
    experts = probe_experts(model)
    assert experts.sparse_layers == sparse_layers
    assert (experts.num_experts, experts.num_experts_per_token) == (4, 2)
    one_expert = 3 * 32 * 16  # gate, up and down
    assert experts.num_expert_parameters == len(sparse_layers) * 4 * one_expert
    sizes = probe_architecture(model)
    idle = len(sparse_layers) * 2 * one_expert
    assert sizes.num_active_parameters == sizes.num_parameters - idle


def test_leading_dense_layers_and_shared_experts_of_deepseek(make_config) -> None:
    from transformers import DeepseekV3Config

    config = DeepseekV3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )
    experts = probe_experts(build_on_meta(config))
    assert experts.sparse_layers == (2, 3)
    assert (experts.num_experts, experts.num_experts_per_token) == (8, 3)
    assert experts.num_expert_parameters == 2 * 8 * 3 * 32 * 16  # The shared expert always runs.


@pytest.mark.parametrize("name", ["Llama", "GPT2", "GPTNeoX", "Gemma2"])
def test_dense_models_have_no_experts(make_config, name) -> None:
    assert probe_experts(build_on_meta(make_config(name))) is None


def test_a_model_of_thirty_billion_parameters_costs_nothing() -> None:
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
    )
    found = probe_architecture(build_on_meta(config))
    # Published: 30.5 billion parameters, 3.3 billion activated.
    assert found.num_parameters == 30_532_122_624
    assert found.num_active_parameters == 3_353_032_704


def test_a_contradictory_configuration_is_one_line(make_config) -> None:
    config = make_config("Llama")
    config.hidden_act = "no_such_function"
    with pytest.raises(ModelError, match="model_type 'llama' cannot be built") as caught:
        build_on_meta(config)
    assert "\n" not in str(caught.value)

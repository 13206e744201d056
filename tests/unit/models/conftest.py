"""Configurations of several architectures, small enough to build in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def build_config(name: str, **changes: Any) -> Any:
    """Return the configuration `name` with `changes`."""
    import transformers

    settings = dict(SIZES)
    if name == "GPT2":
        settings = {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
        settings |= {"bos_token_id": 0, "eos_token_id": 0}
    if name == "GPTNeoX":
        settings = {
            key: value for key, value in settings.items() if key not in ("num_key_value_heads", "head_dim")
        }
    if name == "Qwen3Moe":
        settings |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        settings |= {"mlp_only_layers": [1], "tie_word_embeddings": True}
    if name == "Mixtral":
        settings |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    return getattr(transformers, f"{name}Config")(**(settings | changes))


@pytest.fixture(scope="session")
def make_config() -> Any:
    """Return the function that makes a configuration from an architecture's name and changes."""
    return build_config


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of five architectures, as `save_pretrained` writes them."""
    from transformers import AutoModelForCausalLM

    directories = {}
    for name in ("Llama", "Qwen3Moe", "GPT2", "GPTNeoX", "Gemma2"):
        directory = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(build_config(name)).save_pretrained(directory)
        directories[name] = directory
    return directories

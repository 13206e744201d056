"""A small configuration of a large architecture, so that a probe can run the real code in a second.

Kept: the kinds of layers, the width of a head (kernels depend on it), the ratio of queries to keys up to
two, what is sparse and what is dense. Reduced: the number of layers, heads and experts, the feed-forward
width, the vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

_NUM_TOKENS = 128


def text_config(config: Any) -> Any:
    """Return the text part of a composite configuration where it has a language model of its own."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config(decoder=True)
    # A remote configuration is in no mapping; its model can only be built from the whole of it.
    return text if type(text) in AutoModelForCausalLM._model_mapping else config


def num_reduced_layers(config: Any) -> int:
    """Return how many layers the reduced form has: two, or one of each kind if there are more kinds."""
    return max(2, len(dict.fromkeys(getattr(config, "layer_types", None) or ())))


def reduced_config(config: Any, *, narrow: bool, keeps_padding: bool = False) -> Any:
    """Return a copy of `config` with few layers, one of each type, few experts and, if `narrow`, few
    heads.

    With `keeps_padding` it keeps the id of the padding token, from which RoBERTa and its relatives count
    positions.
    """
    small = copy.deepcopy(config)
    num_layers = num_reduced_layers(config)
    layer_types = getattr(config, "layer_types", None)
    values: dict[str, Any] = {"num_hidden_layers": num_layers, "vocab_size": _NUM_TOKENS}
    if layer_types:
        kinds = list(dict.fromkeys(layer_types))
        values["layer_types"] = (kinds * num_layers)[:num_layers]
    num_used = (
        getattr(config, "num_experts_per_tok", None) or getattr(config, "num_experts_per_token", None) or 1
    )
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if isinstance(getattr(config, name, None), int) and not getattr(config, "n_group", None):
            values[name] = min(getattr(config, name), max(4, num_used))
    if narrow:
        values |= _narrow_values(config)
    for name, value in values.items():
        # Through the attribute map a number has one home; a name that the architecture lacks is not invented.
        if hasattr(small, name):
            with contextlib.suppress(AttributeError):  # Some are computed from others and cannot be set.
                setattr(small, name, value)
    padding = getattr(config, "pad_token_id", None)
    for role in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, role, None)
    if keeps_padding and isinstance(padding, int):
        small.pad_token_id = padding % _NUM_TOKENS
    return small


def _narrow_values(config: Any) -> dict[str, int]:
    """Return few heads of the true width, in the true ratio of queries to keys where that is small."""
    num_heads = config.num_attention_heads
    num_kv = getattr(config, "num_key_value_heads", None) or num_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    ratio = max(1, num_heads // num_kv)
    num_small_kv = 1 if num_kv == 1 else 2
    num_small = num_small_kv * min(ratio, 2)
    width = num_small * head_width
    values = {
        "num_attention_heads": num_small,
        "num_key_value_heads": num_small_kv,
        "hidden_size": width,
        "intermediate_size": 128,
    }
    if getattr(config, "moe_intermediate_size", None):
        values["moe_intermediate_size"] = 64
    return values

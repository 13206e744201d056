"""The numbers of a causal language model: layers, widths, heads, experts, parameters.

Configurations call the same number by many names and leave others out, and a mixture-of-experts model may
put dense layers among its sparse ones. So the numbers are read from the *module tree*, built on torch's
meta device: exact, for every architecture of transformers, in milliseconds and without a byte of weights.
The configuration only supplies what the tree cannot show.

Active parameters of a token = all parameters − Σ over sparse layers of expert parameters × (1 − k / E),
with k of E experts used. Invariant: parameters shared by tied embeddings count once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from distillation.errors import ModelError
from distillation.quiet import quiet_libraries
from distillation.reading import reading_by_libraries

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


MAX_MODULES = 50_000
"""A model of a thousand layers has about 13,000; building takes a second for as many."""


class ArchitectureProbe(BaseModel):
    """Sizes of one model."""

    model_config = ConfigDict(frozen=True)

    model_type: str
    """Name of the architecture in transformers, for example `qwen3_moe`."""
    class_name: str
    """Class that holds the model."""
    num_layers: int
    width: int
    """Size of the hidden state."""
    num_heads: int
    num_key_value_heads: int
    """Fewer than `num_heads` when heads share keys and values."""
    head_width: int
    intermediate_size: int
    """Inner size of a dense layer's feed-forward part."""
    num_output_rows: int
    """Rows of the output layer; may exceed the number of tokens."""
    max_positions: int | None
    """Longest window that the positions were made for; None: no limit stated."""
    tied_embeddings: bool
    """Whether input embedding and output layer are one parameter."""
    num_parameters: int
    num_active_parameters: int
    """Parameters that one token uses; equals `num_parameters` without experts."""
    num_layer_parameters: int
    """Parameters of all layers, without embeddings, output layer and final norm."""


class ExpertsProbe(BaseModel):
    """The mixture of experts, where there is one."""

    model_config = ConfigDict(frozen=True)

    num_experts: int
    """Experts of a sparse layer, shared ones not counted."""
    num_experts_per_token: int
    sparse_layers: tuple[int, ...]
    """Indices of the layers that have experts; the others are dense."""
    num_expert_parameters: int
    """Parameters in experts, over all sparse layers."""
    expert_width: int | None
    """Inner size of one expert; None where the configuration does not say."""


def build_on_meta(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the model of `config` on the meta device: shapes and modules, no memory.

    Raises:
        ModelError: transformers has no causal language model for this configuration, or the numbers
            contradict each other.
    """
    import torch
    from transformers import AutoModelForCausalLM

    def refusal(reason: str) -> ModelError:
        # Any contradiction in a user's config.json surfaces here, in any exception type.
        return ModelError(
            f"model_type {config.model_type!r} cannot be built as a causal language model: {reason}"
        )

    with reading_by_libraries(refusal), quiet_libraries(), torch.device("meta"), _at_most(MAX_MODULES):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        model.tie_weights()
    return model


@contextmanager
def _at_most(num_modules: int) -> Iterator[None]:
    """Bound the number of modules that are put into others inside the block, whatever counts them."""
    from torch.nn.modules.module import register_module_module_registration_hook

    num_built = 0

    def count(*_: Any) -> None:
        nonlocal num_built
        num_built += 1
        if num_built > num_modules:
            raise ValueError(f"it describes more than {num_modules:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def probe_architecture(model: PreTrainedModel) -> ArchitectureProbe:
    """Return the sizes of `model`, which may lie on the meta device."""
    config = model.config.get_text_config(decoder=True)
    layers = decoder_layers(model)
    input_weight: Any = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    output_weight: Any = input_weight if output is None else output.weight
    width = _first(config, "hidden_size", "n_embd", "d_model", default=int(input_weight.shape[1]))
    num_heads = _first(config, "num_attention_heads", "n_head", "n_heads", "num_heads", default=1)
    num_kv = _first(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", default=0)
    if not num_kv:
        num_kv = 1 if getattr(config, "multi_query", False) else num_heads
    experts = probe_experts(model)
    total = _num_parameters(model)
    return ArchitectureProbe(
        model_type=model.config.model_type,
        class_name=type(model).__name__,
        num_layers=len(layers),
        width=width,
        num_heads=num_heads,
        num_key_value_heads=num_kv,
        head_width=_first(config, "v_head_dim", "head_dim", default=width // num_heads),
        intermediate_size=_intermediate_size(config, width),
        num_output_rows=int(output_weight.shape[0]),
        max_positions=_first(config, "max_position_embeddings", "n_positions", "max_seq_len", default=0)
        or None,
        tied_embeddings=output_weight is input_weight,
        num_parameters=total,
        num_active_parameters=total - _num_idle_parameters(experts),
        num_layer_parameters=sum(_num_parameters(layer) for layer in layers),
    )


def probe_experts(model: PreTrainedModel) -> ExpertsProbe | None:
    """Return the mixture of experts found in the module tree of `model`; None when every layer is dense."""
    config = model.config.get_text_config(decoder=True)
    found: dict[int, tuple[int, int]] = {}
    per_token: int | None = None
    for index, layer in enumerate(decoder_layers(model)):
        pools = _expert_pools(layer, config)
        if pools:
            found[index] = max(num for num, _ in pools), sum(size for _, size in pools)
            per_token = per_token or _experts_per_token(layer, config)
    if not found:
        return None
    num_experts = max(num for num, _ in found.values())
    return ExpertsProbe(
        num_experts=num_experts,
        num_experts_per_token=min(per_token or 1, num_experts),
        sparse_layers=tuple(found),
        num_expert_parameters=sum(size for _, size in found.values()),
        expert_width=_first(config, "moe_intermediate_size", "intermediate_size", default=0) or None,
    )


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of layers of the text decoder, found in the module tree.

    It is the module list with the most parameters inside the decoder: experts, heads and vision towers are
    smaller or nested in it.

    Raises:
        ModelError: the model has no list of layers.
    """
    from torch import nn

    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    root = decoder if decoder is not None and decoder is not model else model
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of layers: use a transformer language model")
    return max(lists, key=_num_parameters)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _num_idle_parameters(experts: ExpertsProbe | None) -> int:
    if experts is None:
        return 0
    num_idle = experts.num_experts - experts.num_experts_per_token
    return experts.num_expert_parameters * num_idle // experts.num_experts


def _expert_pools(layer: nn.Module, config: Any) -> list[tuple[int, int]]:
    """Return (number of experts, their parameters) for each pool of routed experts inside `layer`."""
    from torch import nn

    pools = []
    for name, module in layer.named_modules():
        *parents, last = name.lower().split(".")
        is_pool = "expert" in last or "experts" in type(module).__name__.lower()
        if not is_pool or "shared" in name.lower() or any("expert" in part for part in parents):
            continue
        if isinstance(module, nn.ModuleList):
            pools.append((len(module), _num_parameters(module)))
            continue
        # Fused experts are 3-D parameters, one slice an expert; a router's weight is 2-D and is no pool.
        leading = [parameter.shape[0] for parameter in module.parameters() if parameter.dim() == 3]
        if leading:
            pools.append((int(leading[0]), _num_parameters(module)))
        elif _configured_experts(config) > 1 and "experts" in type(module).__name__.lower():
            pools.append((_configured_experts(config), _num_parameters(module)))
    return pools


def _configured_experts(config: Any) -> int:
    holder = getattr(config, "ffn_config", None) or config
    return _first(
        holder, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", default=0
    )


def _experts_per_token(layer: nn.Module, config: Any) -> int | None:
    """Return k from the router in the tree, else from the configuration."""
    for module in layer.modules():
        for name in ("top_k", "num_experts_per_tok", "topk", "moe_top_k", "num_selected_experts"):
            value = getattr(module, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    holder = getattr(config, "ffn_config", None) or config
    names = (
        "num_experts_per_tok",
        "num_experts_per_token",
        "top_k_experts",
        "moe_top_k",
        "moe_topk",
        "moe_k",
    )
    return _first(holder, *names, default=0) or None


def _intermediate_size(config: Any, width: int) -> int:
    names = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "ffn_embed_dim")
    value = _first(config, *names, default=0)
    if not value and getattr(config, "ffn_config", None) is not None:
        value = _first(config.ffn_config, "ffn_hidden_size", default=0)
    # GPT-2 and its relatives leave it out: four times the width by definition.
    return value or 4 * width


def _first(config: Any, *names: str, default: int) -> int:
    """Return the first positive whole number among the attributes `names`; per-layer lists give their
    largest."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple) and value and all(isinstance(part, int) for part in value):
            value = max(value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default

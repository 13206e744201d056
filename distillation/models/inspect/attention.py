"""Which attention implementations of a model work here, found by running them.

A class attribute saying "supported" is no proof: kernels miss the device, a package is absent, and some
implementations return no attention maps or silently fall back. So each one runs a real forward pass of the
real architecture on a small padded batch, and its logits must equal eager's. A large model is replaced by
one with two layers, few heads, few experts and the true head width.

What is found here refuses a setting that cannot work. It does not choose: `auto` is what transformers takes
for the architecture (`models.decision`), the same on every run.

Invariant: nothing is printed; what the libraries had to say becomes the reason of the finding.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from distillation.errors import ModelError, one_line, shorten
from distillation.models.inspect.architecture import build_on_meta, decoder_layers
from distillation.models.inspect.reduced import num_reduced_layers, reduced_config, text_config
from distillation.quiet import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedConfig, PreTrainedModel

AttentionName = Literal["eager", "sdpa", "flash_attention_2"]
BESIDE_EAGER: tuple[AttentionName, ...] = ("flash_attention_2", "sdpa")
_LARGEST_WHOLE = 20_000_000
_LARGEST_NARROW = 400_000_000
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


class ImplementationProbe(BaseModel):
    """What happened when one attention implementation ran."""

    model_config = ConfigDict(frozen=True)

    name: AttentionName
    works: bool
    max_difference: float | None
    """Largest difference of its logits from eager's, relative to eager's largest logit; None: it did not
    run."""
    reason: str
    """Why it does not work; empty when it does."""


class AttentionProbe(BaseModel):
    """The attention implementations of one model on one device."""

    model_config = ConfigDict(frozen=True)

    implementations: tuple[ImplementationProbe, ...]
    maps_complete: bool
    """Whether eager returns one map a layer, each over all positions and with rows that sum to one."""
    maps_problem: str
    """What is incomplete about the maps; empty when they are complete."""
    num_maps: int
    """Attention maps that eager returned."""
    num_layers_tested: int
    tested_on: str
    """`whole architecture` or the reduced form that was run."""

    def works(self, name: str) -> bool:
        """Return whether the implementation `name` ran and agreed with eager."""
        return any(entry.works for entry in self.implementations if entry.name == name)

    def problem(self, name: str) -> str:
        """Return why the implementation `name` does not work; empty where it does, or was not tried."""
        return next((entry.reason for entry in self.implementations if entry.name == name), "")


def probe_attention(
    config: PreTrainedConfig,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> AttentionProbe:
    """Return which attention implementations of the architecture in `config` work on `device` in `dtype`.

    Raises:
        ModelError: not even eager attention runs.
    """
    import torch

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small, reference, tested_on = reference_model(config, trust_remote_code)
        reference.to(device=device, dtype=getattr(torch, dtype))  # type: ignore[call-arg]
        batch = _batch(small, device)
        expected = _logits(reference, batch)
        num_maps, maps_problem = _attention_maps(reference, batch)
        others = [
            _try(small, name, reference, batch, expected, dtype=dtype, trust_remote_code=trust_remote_code)
            for name in BESIDE_EAGER
        ]
    eager = ImplementationProbe(name="eager", works=True, max_difference=0.0, reason="")
    return AttentionProbe(
        implementations=(*others, eager),
        maps_complete=not maps_problem,
        maps_problem=maps_problem,
        num_maps=num_maps,
        num_layers_tested=len(decoder_layers(reference)),
        tested_on=tested_on,
    )


def check_attention(setting: str, probe: AttentionProbe, *, name: str) -> None:
    """Check that an implementation that the user asks for works; `name` is the setting's full name.

    Raises:
        ModelError: it does not.
    """
    reason = probe.problem(setting)
    if setting != "auto" and reason:
        raise ModelError(f"{name} = {setting!r} does not work here ({reason}): use auto")


def reference_model(config: Any, trust_remote_code: bool) -> tuple[Any, PreTrainedModel, str]:
    """Return a configuration that is small enough to run, its eager model on the processor, and what it is
    called.

    Raises:
        ModelError: none of them runs.
    """
    candidates: list[tuple[str, Callable[[], Any], int]] = [
        ("whole architecture", lambda: copy.deepcopy(config), _LARGEST_WHOLE)
    ]
    full = build_on_meta(config, trust_remote_code=trust_remote_code)
    if sum(p.numel() for p in full.parameters()) > _LARGEST_WHOLE:
        text = text_config(config)
        num_layers = num_reduced_layers(text)
        candidates = [
            (f"{num_layers} layers, narrow", lambda: reduced_config(text, narrow=True), _LARGEST_NARROW),
            (f"{num_layers} layers, full width", lambda: reduced_config(text, narrow=False), _LARGEST_NARROW),
            (
                f"{num_layers} layers, narrow, with padding",
                lambda: reduced_config(text, narrow=True, keeps_padding=True),
                _LARGEST_NARROW,
            ),
        ]
    failures = []
    for name, make, largest in candidates:
        try:
            candidate = make()
            meta = build_on_meta(candidate, trust_remote_code=trust_remote_code)
            if sum(p.numel() for p in meta.parameters()) > largest:
                failures.append(f"{name} is too large to run")
                continue
            model = _build(candidate, "eager", trust_remote_code).eval()
            _logits(model, _batch(candidate, "cpu"))
            return candidate, model, name
        except Exception as error:  # The reduced form of an unknown architecture may fail in any way.
            failures.append(f"{name}: {shorten(one_line(error))}")
    raise ModelError(
        f"model_type {config.model_type!r} does not run with eager attention: {'; '.join(failures)}"
    )


def _build(config: Any, attention: str, trust_remote_code: bool) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    return build(
        copy.deepcopy(config),
        attn_implementation=attention,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
    )


def _batch(config: Any, device: str) -> dict[str, Any]:
    """Return two short texts as ids (B, T), the second padded on the left, for a vocabulary of `config`."""
    import torch

    text = config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(3, max(4, min(text.vocab_size, 120)), (2, 12), generator=generator)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, :4] = 0
    return {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}


def _logits(model: Any, batch: dict[str, Any]) -> Any:
    """Return the logits of the real positions in fp32, (N, V): padded rows attend to nothing and mean
    nothing."""
    import torch

    with torch.no_grad():
        logits_BTV = model(**batch, use_cache=False).logits.float()
    return logits_BTV[batch["attention_mask"].bool()]


def _try(
    config: Any,
    name: AttentionName,
    reference: Any,
    batch: dict[str, Any],
    expected: Any,
    *,
    dtype: str,
    trust_remote_code: bool,
) -> ImplementationProbe:
    """Run `config` with the weights of `reference` under the attention `name` and compare with `expected`,
    (N, V)."""

    def finding(works: bool, difference: float | None, reason: str) -> ImplementationProbe:
        return ImplementationProbe(name=name, works=works, max_difference=difference, reason=reason)

    if name == "flash_attention_2" and (missing := _flash_attention_problem(reference.device.type)):
        return finding(False, None, missing)
    try:
        model = _build(config, name, trust_remote_code)
        used = model.config._attn_implementation
        if used != name:
            return finding(False, None, f"{type(model).__name__} falls back to {used}")
        model.load_state_dict(reference.state_dict())
        model.to(device=reference.device, dtype=reference.dtype).eval()  # type: ignore[call-arg]
        logits = _logits(model, batch)
    except Exception as error:  # Kernels and packages fail in any exception type; the text is the finding.
        return finding(False, None, _short_reason(error))
    if not bool(logits.isfinite().all()):
        return finding(False, None, "its logits are not finite")
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if difference > _TOLERANCE[dtype]:
        return finding(False, difference, f"its logits differ from eager's by {difference:.2g}")
    return finding(True, difference, "")


def _flash_attention_problem(device_type: str) -> str:
    """Return why flash attention cannot run at all; empty when it may.

    Without the package transformers would fetch a kernel from the hub and run it: code nobody chose.
    """
    if device_type != "cuda":
        return f"it needs a CUDA device, not {device_type}"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    return ""


def attention_maps_problem(model: PreTrainedModel) -> str:
    """Return what is incomplete about the maps of a model with eager attention; empty if nothing is."""
    return _attention_maps(model, _batch(model.config, str(model.device)))[1]


def _attention_maps(model: Any, batch: dict[str, Any]) -> tuple[int, str]:
    """Return how many maps the eager `model` gives, and what is incomplete about them."""
    import torch

    with torch.no_grad():
        output = model(**batch, use_cache=False, output_attentions=True)
    maps = getattr(output, "attentions", None) or ()
    real_BT = batch["attention_mask"].bool()
    length, num_layers = real_BT.shape[1], len(decoder_layers(model))
    if len(maps) != num_layers:
        return len(maps), f"{len(maps)} maps for {num_layers} layers"
    for index, map_BHTT in enumerate(maps):
        if not isinstance(map_BHTT, torch.Tensor) or tuple(map_BHTT.shape[-2:]) != (length, length):
            return len(maps), f"the map of layer {index} does not cover all positions"
        sums = map_BHTT.float().sum(-1).transpose(1, 2)[real_BT]
        if not torch.allclose(sums, torch.ones_like(sums), atol=2e-2):
            return len(maps), f"the rows of layer {index} do not sum to one"
    return len(maps), ""


def _short_reason(error: BaseException) -> str:
    """Return the first sentence of what the library said."""
    return shorten(one_line(error).split(". ")[0].removesuffix("."))

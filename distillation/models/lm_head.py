"""Next-token logits of a causal language model at chosen positions, a chunk of positions at a time.

The logits of a batch are the largest tensor of an evaluation: 16 windows of 256 positions over 151,936 tokens
are 2.5 GB in float32. So the body of the model runs once and gives hidden states, and the output layer is
applied to few positions at a time.

Some architectures change the logits after the output layer (a soft cap, a scale). Whether the output layer on
the hidden states is what the model itself returns is *tested* on a short probe, never assumed; where it is
not, the model's own forward pass is used.

Padding is on the right, where a causal model cannot see it from any real position, so no mask is needed: the
attention kernels then skip the upper half, and flash kernels, which take no mask, can be chosen. That nothing
sees what follows is tested by another probe; where something does, the mask is passed on.

Letters: B batch, T positions, D width, V vocabulary, N positions that are used.
Invariant (tests): both paths give the model's own logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK_ELEMENTS = 8_000_000
"""Logits that exist at a time: 32 MB in float32."""
PROBE_TOKENS = 4
LEAST_INFLUENCE = 1e-6
"""Of a later token, beside the largest of any: what is below it is rounding."""

READS_AHEAD = (
    "reads the tokens that it is asked to predict; take a causal model, or set is_decoder to true in "
    "config.json if it was trained as one"
)
"""What is said of a model that `reads_later_tokens` finds, after its name."""


class LogitsReader:
    """Reads the logits of `model` position by position.

    Use it as `states = reader.states(ids_BT, mask_BT)`, then `reader.logits(states[positions])` on at most
    `reader.chunk_size` positions at a time. `states` are hidden states (B, T, D), or the model's own logits
    (B, T, V) where the output layer alone does not give them; the caller need not know which.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.whole: Callable[..., Any] = model
        """What runs the model with its output layer."""
        self.head = model.get_output_embeddings()
        self.device: torch.device = next(model.parameters()).device
        self.is_split = self._head_gives_the_logits()
        self.is_causal = self._later_tokens_change_nothing()

    @property
    def num_rows(self) -> int:
        """Rows of the output layer: V, which may exceed the tokenizer's vocabulary."""
        return int(self.head.weight.shape[0] if self.head is not None else self.model.config.vocab_size)

    @property
    def plain_head(self) -> Any:
        """The output layer where it is no more than its weight and bias, whose rows may be used alone.

        None where logits are not made by it, where it is quantised or adapted, or where something moves its
        weights in when it is called.
        """
        import torch

        if not self.is_split or type(self.head) is not torch.nn.Linear:
            return None
        is_hooked = hasattr(self.head, "_hf_hook") or self.head._forward_hooks or self.head._forward_pre_hooks
        return None if is_hooked or self.head.weight.is_meta else self.head

    @property
    def chunk_size(self) -> int:
        """Positions whose float32 logits may exist at a time."""
        return max(1, CHUNK_ELEMENTS // self.num_rows)

    def states(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return (B, T, ·) from which `logits` reads; padding is on the right, where `mask_BT` is 0.

        What stands at padding is not defined.
        """
        return self.states_of(self.run(ids_BT, self.attention_mask(mask_BT)))

    def run(self, ids_BT: Tensor, mask_BT: Tensor | None = None, **wanted: Any) -> Any:
        """Return the outputs of the body, or of the whole model where the output layer alone is not enough.

        Args:
            ids_BT: tokens.
            mask_BT: what `attention_mask` says.
            wanted: what else to return, as transformers names it: `output_hidden_states=True`.
        """
        body = self.model.base_model if self.is_split else self.whole
        return body(input_ids=ids_BT.to(self.device), attention_mask=mask_BT, use_cache=False, **wanted)

    def attention_mask(self, mask_BT: Tensor) -> Tensor | None:
        """Return the mask that the model needs where padding is on the right; None: it needs none."""
        return None if self.is_causal else mask_BT.to(self.device)

    def logits(self, states_ND: Tensor) -> Tensor:
        """Return the float32 logits (N, V) of positions taken from `states`."""
        return (self.head(states_ND) if self.is_split else states_ND).float()

    def states_of(self, outputs: Any) -> Tensor:
        """Return (B, T, ·) of the outputs of `run`, as `states` does."""
        return outputs.last_hidden_state if self.is_split else outputs.logits

    def _later_tokens_change_nothing(self) -> bool:
        import torch

        # Two rows that differ at their ends, in one batch: products of one shape round alike.
        ids_2T = torch.arange(2 * PROBE_TOKENS, device=self.device).repeat(2, 1) % self.num_rows
        ids_2T[1, PROBE_TOKENS:] = 0
        with torch.inference_mode(), evaluating(self.model):
            states_2TD = self.states_of(self.run(ids_2T))[:, :PROBE_TOKENS].float()
        return torch.allclose(states_2TD[0], states_2TD[1], rtol=1e-3, atol=1e-3)

    def _head_gives_the_logits(self) -> bool:
        import torch

        if self.head is None or self.model.base_model is self.model:
            return False
        ids_BT = torch.arange(PROBE_TOKENS, device=self.device)[None] % self.head.weight.shape[0]
        with torch.inference_mode(), evaluating(self.model):
            states = self.model.base_model(input_ids=ids_BT, use_cache=False)
            states = getattr(states, "last_hidden_state", None)
            if states is None or states.shape[-1] != self.head.weight.shape[1]:
                return False
            own = self.model(input_ids=ids_BT, use_cache=False).logits
            logits = self.head(states)
        return logits.shape == own.shape and torch.allclose(logits.float(), own.float(), rtol=1e-3, atol=1e-3)


def reads_later_tokens(model: Any) -> bool:
    """Return whether what `model` says after a token depends on tokens behind it, as a BERT's does.

    Asked of gradients, which are zero for what a causal model masks, however few digits its numbers have.
    """
    import torch

    read: list[Tensor] = []

    def watch(module: Any, arguments: Any, output: Tensor) -> Tensor:
        read.append(output.detach().requires_grad_())
        return read[-1]

    embeddings = model.get_input_embeddings()
    num_rows = num_input_rows(model)
    ids_1T = torch.arange(2 * PROBE_TOKENS, device=embeddings.weight.device)[None] % num_rows
    hook = embeddings.register_forward_hook(watch)
    try:
        with torch.enable_grad(), evaluating(model):
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :PROBE_TOKENS].float()
            if not read:  # its table is read in another way
                return not LogitsReader(model).is_causal
            # Not their plain sum, which a norm before the output layer may hold constant.
            weights_V = torch.arange(logits_TV.shape[1], device=logits_TV.device).float().cos()
            finite_TV = torch.where(logits_TV.isfinite(), logits_TV, 0.0)  # excluded columns
            gradient_1TD = torch.autograd.grad((finite_TV * weights_V).sum(), read[0])[0].float()
    except (RuntimeError, NotImplementedError):  # a kernel without gradients, of quantised weights
        return not LogitsReader(model).is_causal
    finally:
        hook.remove()
    later = gradient_1TD[:, PROBE_TOKENS:].abs().max()
    return bool(later > LEAST_INFLUENCE * gradient_1TD.abs().max())


def num_input_rows(model: Any) -> int:
    """Return the rows of the table that `model` reads tokens with."""
    return int(model.get_input_embeddings().weight.shape[0])


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put `model` into evaluation mode, and back afterwards: a trainer may be in the middle of an epoch."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

"""Greedy continuations of a few prompts: what a student's figures look like as text.

Greedy decoding shows the model's own most likely text, without luck; it is the same on every run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from distillation.models.lm_head import evaluating, num_input_rows
from distillation.tokenizers.plain_text import PlainText


class Sample(BaseModel):
    """One prompt and what a model wrote after it."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    continuation: str
    """Text after the prompt, special tokens left out."""
    num_tokens: int
    """Tokens written, the end token included."""


def continue_prompts(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, num_new_tokens: int
) -> list[Sample]:
    """Let `model` continue each prompt greedily by at most `num_new_tokens` of its own tokens.

    The start token comes first, as in training. A prompt too long for the model loses its beginning.
    """
    import torch

    if num_new_tokens == 0:
        return []
    device = next(model.parameters()).device
    samples = []
    with torch.inference_mode(), evaluating(model):
        for prompt in prompts:
            ids = _prompt_ids(model, tokenizer, prompt, num_new_tokens)
            input_ids = torch.tensor([ids], device=device)
            output = model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=_greedy(tokenizer, num_new_tokens),
            )
            new_ids = output[0, len(ids) :].tolist()
            text = tokenizer.decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            samples.append(Sample(prompt=prompt, continuation=text, num_tokens=len(new_ids)))
    return samples


def _prompt_ids(model: Any, tokenizer: Any, prompt: str, num_new_tokens: int) -> list[int]:
    from distillation.models.load import start_token_id

    [ids] = PlainText(tokenizer, num_input_rows(model)).ids([prompt])
    start = start_token_id(tokenizer)
    prefix = [start] if start is not None else []
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        ids = ids[-max(1, limit - num_new_tokens - len(prefix)) :]
    return prefix + ids


def _greedy(tokenizer: Any, num_new_tokens: int) -> Any:
    from transformers import GenerationConfig

    end = tokenizer.eos_token_id
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=num_new_tokens,
        eos_token_id=end,
        pad_token_id=padding,
        use_cache=True,
    )


def greedy_token(model: Any, input_ids: Any) -> int:
    """Return the most likely next token; only the last position goes through the output layer."""
    parameters = inspect.signature(model.forward).parameters
    last_alone = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
    output = model(input_ids=input_ids, use_cache=True, **last_alone)
    return int(output.logits[0, -1].argmax())


def write_greedily(model: Any, input_ids: Any, num_new_tokens: int) -> None:
    """Write exactly `num_new_tokens` with the cache: no end token stops it, no setting alters it.

    A model that has a state in place of a cache is told by its first output.
    """
    cache = None
    for place in range(num_new_tokens):
        output = model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:  # a state-space model, whose state each architecture calls otherwise
            _generate_by_library(model, input_ids, num_new_tokens - place)
            return
        input_ids = output.logits[:, -1:].argmax(dim=-1)


def _generate_by_library(model: Any, input_ids: Any, num_new_tokens: int) -> None:
    """Write exactly `num_new_tokens` by `generate`, which knows how to carry any model's state along."""
    import torch
    from transformers import GenerationConfig

    plain = GenerationConfig(
        do_sample=False,
        num_beams=1,
        min_new_tokens=num_new_tokens,
        max_new_tokens=num_new_tokens,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=True,
    )
    model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=plain)

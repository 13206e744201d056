"""Greedy continuations of a few prompts: what a student's figures look like as text.

Greedy decoding shows the model's own most likely text, without luck; it is the same on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from distillation.alignment.plain_text import PlainText
from distillation.evaluation.logits import evaluating, num_input_rows


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
    from distillation.models import start_token_id

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

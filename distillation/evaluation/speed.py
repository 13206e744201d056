"""How fast and how large a model is: tokens a second, time to the first token, memory, bytes on disk.

Times are the fastest of several runs of one fixed shape after a warm-up: whatever else the machine does can
only slow a run down.
Tokens of different tokenizers differ in length: `Speed` keeps tokens a second, and the caller who knows the
bytes a token holds gives bytes a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from distillation.evaluation.samples import greedy_token, write_greedily
from distillation.models.inspect.architecture import probe_architecture
from distillation.models.lm_head import evaluating
from distillation.models.peak_memory import bytes_of_weights, peak_growth

NUM_REPEATS = 8
"""Timed runs after the warm-up; the fastest counts."""
NUM_PROMPT_TOKENS = 128
"""Length of the prompt whose next token is waited for."""


class Speed(BaseModel):
    """Speed and size of a model on the machine that evaluated it."""

    model_config = ConfigDict(frozen=True)

    forward_tokens_per_second: float
    """Tokens read a second, in windows of the fixed shape."""
    generated_tokens_per_second: float
    """Tokens written a second, greedily, one text at a time, with the key-value cache."""
    num_parameters: int
    """All parameters; tied ones count once."""
    num_active_parameters: int
    """Parameters that one token passes through: of the experts only those it is routed to."""
    size_on_disk: int | None
    """Bytes of the weight files; None when the weights are not in a directory."""
    first_token_ms: float | None = None
    """Milliseconds from a prompt of fixed length, `NUM_PROMPT_TOKENS` at most, to its greedy next token, with
    the key-value cache being filled; None in results from before it was measured."""
    peak_memory_bytes: int | None = None
    """Bytes of the weights, and by how much reading and writing the fixed shapes raises the peak of memory
    above what was held before; None where the device does not tell."""


def measure_speed(
    model: Any,
    directory: str | Path | None,
    *,
    batch_size: int = 8,
    length: int = 128,
    num_new_tokens: int = 32,
) -> Speed:
    """Time `model` on random tokens: `batch_size` x `length` read, and `num_new_tokens` written after 8.

    Memory is measured over runs of both, one after the other.
    """
    import torch

    limit = getattr(model.config, "max_position_embeddings", None) or length
    length = min(length, limit)
    num_new_tokens = max(1, min(num_new_tokens, limit - 8))
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch_size, length), generator=generator).to(device)
    with torch.inference_mode(), evaluating(model):
        forward = _least_seconds(lambda: model(input_ids=ids, use_cache=False), device)
        generation = _least_seconds(lambda: write_greedily(model, ids[:1, :8], num_new_tokens), device)
        prompt = ids[:1, :NUM_PROMPT_TOKENS]
        first_token = _least_seconds(lambda: greedy_token(model, prompt), device)
        growth = peak_growth(lambda: _read_and_write(model, ids, num_new_tokens), device)
    parameters = probe_architecture(model)
    return Speed(
        forward_tokens_per_second=batch_size * length / forward,
        generated_tokens_per_second=num_new_tokens / generation,
        num_parameters=parameters.num_parameters,
        num_active_parameters=parameters.num_active_parameters,
        size_on_disk=size_on_disk(directory) if directory is not None else None,
        first_token_ms=1000 * first_token,
        peak_memory_bytes=None if growth is None else bytes_of_weights(model) + growth,
    )


def size_on_disk(directory: str | Path) -> int | None:
    """Return the bytes of the weight files in `directory`, or None if it holds none."""
    folder = Path(directory)
    if not folder.is_dir():
        return None
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = list(folder.glob(pattern))
        if files:
            return sum(file.stat().st_size for file in files)
    return None


def _read_and_write(model: Any, ids: Any, num_new_tokens: int) -> None:
    model(input_ids=ids, use_cache=False)
    write_greedily(model, ids[:1, :8], num_new_tokens)


def _least_seconds(run: Callable[[], Any], device: Any) -> float:
    run()
    seconds = []
    for _ in range(NUM_REPEATS):
        _finish(device)
        begin = time.perf_counter()
        run()
        _finish(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _finish(device: Any) -> None:
    """Wait for the accelerator, whose calls return before the work is done."""
    import torch

    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()

"""A teacher cache for a student whose token ids need more than 16 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caching_parts import fill, losses, make_parts

from distillation.config import TermWeights
from distillation.teachers.cache.store import CacheReader

FIRST_ID = 65_400
"""Some ids fit into 16 bits, most do not."""


def moved(ids: dict[str, int]) -> dict[str, int]:
    return {token: number + FIRST_ID for token, number in ids.items()}


@pytest.fixture(scope="module")
def parts(
    tmp_path_factory: Any, tiny_teacher_dir: Path, tiny_student_dir: Path, english_documents: Any
) -> Any:
    """The tiny student's tokenizer with all ids moved up, and a model with that many rows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("large")
    config = AutoConfig.from_pretrained(tiny_student_dir)
    config.vocab_size += FIRST_ID
    config.bos_token_id = config.eos_token_id = config.pad_token_id = FIRST_ID
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for path in tiny_student_dir.glob("*token*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = moved(tokenizer["model"]["vocab"])
    for token in tokenizer["added_tokens"]:
        token["id"] += FIRST_ID
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return make_parts(tiny_teacher_dir, folder, folder / "documents.jsonl", english_documents[:32])


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [({"kind": "top_k", "k": 10_000}, 2e-3), ({"kind": "sampling", "num_samples": 5_000}, 1e-2)],
)
def test_ids_of_more_than_16_bits_come_back(
    parts: Any, tmp_path: Path, values: Any, tolerance: float
) -> None:
    terms = TermWeights(cross_entropy=0.1, forward_kl=0.9)
    cache = fill(parts, tmp_path, terms=terms, **values)
    reader = CacheReader(cache.directory)
    windows = [reader.read(key) for key in reader.places]
    ids = np.concatenate([window.id_E for window in windows])
    assert ids.dtype == np.uint32
    assert ids.min() >= FIRST_ID
    assert (ids >= 2**16).mean() > 0.1
    (live_loss, live_grad, _), (loss, grad, _) = losses(parts, cache, terms)
    assert loss == pytest.approx(live_loss, rel=tolerance)
    assert (grad - live_grad).norm() < 10 * tolerance * live_grad.norm()

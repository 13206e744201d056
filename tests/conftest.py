"""Fixtures: a tiny random pair with two tokenizers, real documents, the shared material where it exists."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ZENML_ANALYTICS_OPT_IN", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real tokenizers and corpora beside the repository; without them the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("../shared (real tokenizers and corpora) is not there")
    return SHARED


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """An empty folder of a user whom rights bind; they do not bind root, who many containers' tests are."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid()
        if user == 0:
            os.chown(name, 65534, -1)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


@pytest.fixture(scope="session")
def english_documents() -> list[str]:
    """Sixty documents of the embedded corpus, each cut to 1,500 characters at a line end."""
    from distillation.corpus.sources.documentation import iterate_documentation

    documents = itertools.islice(iterate_documentation(), 60)
    return [document.text[:1500].rsplit("\n", 1)[0] + "\n" for document in documents]


@pytest.fixture(scope="session")
def tiny_teacher_dir(tmp_path_factory: pytest.TempPathFactory, english_documents: list[str]) -> Path:
    """A random Qwen3-MoE teacher, width 32, two layers, the first dense, with a BPE of 600 tokens."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from distillation.sample.make import train_tokenizer

    torch.manual_seed(1)
    tokenizer = train_tokenizer(english_documents[:20], 600, split_digits=False)
    config = Qwen3MoeConfig(
        vocab_size=608,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    directory = tmp_path_factory.mktemp("teacher")
    Qwen3MoeForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_student_dir(tmp_path_factory: pytest.TempPathFactory, english_documents: list[str]) -> Path:
    """A random Llama student, width 24, two layers, with a digit-splitting BPE of 400 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from distillation.sample.make import train_tokenizer

    torch.manual_seed(2)
    tokenizer = train_tokenizer(english_documents[40:], 400, split_digits=True)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    directory = tmp_path_factory.mktemp("student")
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory

"""A tiny random Llama and its tokenizer, so that these tests need nothing but the libraries."""

from __future__ import annotations

import pytest

SENTENCES = [
    "Return a new list containing all items from the iterable in ascending order.",
    "Raises ValueError if the mapping is empty, or if the naïve key was not found: 数据 déjà vu.",
    "The quick brown fox jumps over the lazy dog, 12345 times; then it rests.",
    "def encode(text: str) -> bytes:\n    return text.encode('utf-8')\n",
]


def train_tokenizer(vocab_size: int, *, start: bool):
    """Return a byte-level BPE fast tokenizer; with `start` it has `<|endoftext|>` as its start token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"] if start else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    specials = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(specials if start else {}))


def _make_llama(vocab_size: int, seed: int = 0):
    """Return a random two-layer Llama whose distributions are far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def start_tokenizer():
    return train_tokenizer(320, start=True)


@pytest.fixture(scope="session")
def teacher_tokenizer():
    """Another vocabulary of the same kind, so that some tokens coincide with `start_tokenizer`'s."""
    return train_tokenizer(420, start=True)


@pytest.fixture(scope="session")
def bare_tokenizer():
    return train_tokenizer(320, start=False)


@pytest.fixture(scope="session")
def make_llama():
    """The function (vocab_size, seed=0) -> model."""
    return _make_llama


@pytest.fixture(scope="session")
def llama(start_tokenizer):
    return _make_llama(len(start_tokenizer))


@pytest.fixture(scope="session")
def sentences():
    return list(SENTENCES)

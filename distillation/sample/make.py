"""Make the embedded pair: `python -m distillation.sample.make OUTPUT_DIR`.

The real pair in miniature, trained on the documentation corpus alone: a mixture-of-experts teacher of the
Qwen3 architecture with an 8,192-token byte-level BPE (its first layer dense, the others sparse), and a Llama
student with another byte-level BPE of 3,072 tokens that splits numbers into digits. The student is trained
on text for a while, as real students have been. On two processor cores this takes about an hour, nearly all
of it the teacher. Held-out documents are never seen: the split is by content hash, and training documents
that share long n-grams with held-out ones are dropped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

START = "<|endoftext|>"
TEACHER_VOCABULARY, STUDENT_VOCABULARY = 8_192, 3_072
TOKENIZER_BYTES = 12_000_000
"""Text that the tokenizers are trained on; more changes few merges."""
MAX_LEAKED_SHARE = 0.02
"""Stricter than the contract's own: nobody can take back what a published teacher has seen."""


def train_tokenizer(
    texts: Sequence[str], vocabulary_size: int, *, split_digits: bool
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with one special token, `<|endoftext|>`, as start, end and padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=START, pad_token=START, model_max_length=512
    )


def make_teacher() -> PreTrainedModel:
    """Return the untrained teacher: 3.5 M parameters, 5 layers, width 192, 4 experts of which 2 are used."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(  # type: ignore[call-arg]
        vocab_size=TEACHER_VOCABULARY,
        hidden_size=192,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        intermediate_size=384,
        moe_intermediate_size=120,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        norm_topk_prob=True,
        router_aux_loss_coef=0.01,
        output_router_logits=True,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = Qwen3MoeForCausalLM(config)
    model.set_experts_implementation(
        "grouped_mm"
    )  # one product for all experts: the fastest on processors too
    return model


def make_student() -> PreTrainedModel:
    """Return the untrained student: 1.4 M parameters, 4 layers, width 144."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=STUDENT_VOCABULARY,
        hidden_size=144,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def blocks(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> Iterator[dict]:
    """Yield blocks of `length` ids: the start token, then a stretch of the documents' stream."""
    import numpy as np

    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    stream = np.concatenate([np.array([0, *encoding.ids], np.int32) for encoding in encodings])
    num_blocks = len(stream) // (length - 1)
    for block in stream[: num_blocks * (length - 1)].reshape(num_blocks, length - 1):
        ids = [0, *block.tolist()]
        yield {"input_ids": ids, "labels": ids}


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    output: Path,
    *,
    num_steps: int,
    learning_rate: float,
    batch_size: int = 8,
    length: int = 256,
) -> None:
    """Train `model` on `texts` with transformers' Trainer and save it in bfloat16 with its tokenizer."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    dataset = Dataset.from_list(list(blocks(tokenizer, texts, length)))
    num_tokens = num_steps * batch_size * length
    print(f"{output.name}: {model.num_parameters():,} parameters, {num_tokens:,} tokens", flush=True)
    checkpoints = output.parent / f"{output.name}-checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.1,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=50,
        save_steps=400,
        save_total_limit=2,
        report_to=[],
        seed=0,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")) or None)
    model.config.output_router_logits = False
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    """Train both tokenizers and both models into `OUTPUT_DIR/teacher` and `OUTPUT_DIR/student`."""
    import torch

    from distillation.config import ContractSettings, CorpusSettings
    from distillation.corpus.loading import load_corpus

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--teacher-steps", type=int, default=2_800)
    parser.add_argument("--student-steps", type=int, default=500)
    parser.add_argument("--only", choices=["teacher", "student"])
    arguments = parser.parse_args()
    contract = ContractSettings(max_leaked_share=MAX_LEAKED_SHARE)
    everything = CorpusSettings(max_train_bytes=None, max_held_out_bytes=None, contract=contract)
    texts = load_corpus(everything, {}).train["text"]
    sample = list(texts)[:: max(1, sum(map(len, texts)) // TOKENIZER_BYTES)]
    torch.manual_seed(0)
    if arguments.only != "student":
        tokenizer = train_tokenizer(sample, TEACHER_VOCABULARY, split_digits=False)
        train(make_teacher(), tokenizer, texts, arguments.output / "teacher",
              num_steps=arguments.teacher_steps, learning_rate=3e-3)  # fmt: skip
    if arguments.only != "teacher":
        tokenizer = train_tokenizer(sample, STUDENT_VOCABULARY, split_digits=True)
        train(make_student(), tokenizer, texts, arguments.output / "student",
              num_steps=arguments.student_steps, learning_rate=3e-3)  # fmt: skip


if __name__ == "__main__":
    main()

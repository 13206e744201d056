"""German, Chinese and Arabic sentences through the real pair of tokenizers, from text to trained student."""

from __future__ import annotations

import json
import math
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from distillation.aligners.build import build_aligner
from distillation.config import Settings, parse_settings
from distillation.corpus.loading import load_corpus
from distillation.metrics_log import read_metrics
from distillation.models.load import load_tokenizer
from distillation.tokenizers.pairs import PairEncoder
from distillation.training.job import prepare_job
from distillation.training.run import run_job

LANGUAGES = ("de", "zh", "ar")
NUM_TEACHER_ROWS, NUM_STUDENT_ROWS = 151_936, 49_152


@pytest.fixture(scope="module")
def pair(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random models of eight numbers a token, with the real tokenizers and output layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 16,
        "tie_word_embeddings": True,
    }
    kinds = (
        ("qwen2", Qwen3ForCausalLM, Qwen3Config(vocab_size=NUM_TEACHER_ROWS, **shape)),
        ("smollm", LlamaForCausalLM, LlamaConfig(vocab_size=NUM_STUDENT_ROWS, **shape)),
    )
    folders = []
    for name, kind, config in kinds:
        folder = tmp_path_factory.mktemp(name)
        kind(config).save_pretrained(folder)
        for file in (shared_dir / "tokenizers" / name).iterdir():
            shutil.copy(file, folder / file.name)
        folders.append(folder)
    return folders[0], folders[1]


def sentences(shared_dir: Path, language: str) -> list[str]:
    text = (shared_dir / "corpora" / f"pud-{language}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_is_misaligned(
    pair: tuple[Path, Path], shared_dir: Path, language: str, form: Any
) -> None:
    settings = make_settings(pair, Path("unused"))
    tokenizers = [
        load_tokenizer(settings.models.teacher, "teacher"),
        load_tokenizer(settings.models.student, "student"),
    ]
    encoder = PairEncoder(*tokenizers)
    texts = [unicodedata.normalize(form, line) for line in sentences(shared_dir, language)]
    pairs = encoder.encode(texts)
    refused = sum(one is None for one in pairs)
    assert refused == sum(encoder.refusals.values()) <= 0.01 * len(texts), encoder.refusals
    for text, one in zip(texts, pairs, strict=True):
        if one is None:
            continue
        content = unicodedata.normalize("NFC", text).encode("utf-8")
        for side, tokens in ((one.teacher, encoder.teacher_bytes), (one.student, encoder.student_bytes)):
            assert tokens.join(side.ids) == content
            ends = [len(tokens.join(side.ids[: index + 1])) for index in range(0, len(side.ids), 7)]
            assert side.ends[::7].tolist() == ends


def make_settings(pair: tuple[Path, Path], corpus: Path) -> Settings:
    return parse_settings(
        {
            "corpus": {
                "sources": [{"kind": "file", "path": str(corpus)}],
                "min_document_characters": 1,
                "held_out_share": 0.1,
                "contract": {
                    "min_median_characters": 10,
                    "max_leaking_documents_share": 1.0,
                    "max_unknown_share": 1.0,
                },
            },
            "models": {
                "teacher": {"path": str(pair[0])},
                "student": {"path": str(pair[1])},
                "device": "cpu",
            },
            "training": {"max_length": 64, "batch_size": 4, "evaluations": 1, "max_steps": 3},
        }
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_distillation_runs(pair: tuple[Path, Path], shared_dir: Path, language: str, tmp_path: Path) -> None:
    path = tmp_path / "sentences.jsonl"
    lines = sentences(shared_dir, language)[:200]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    settings = make_settings(pair, path)
    models = settings.models
    tokenizers = {"teacher": load_tokenizer(models.teacher, "teacher"),
                  "student": load_tokenizer(models.student, "student")}  # fmt: skip
    aligner = build_aligner(
        "prefix", *tokenizers.values(), num_teacher_rows=NUM_TEACHER_ROWS, num_student_rows=NUM_STUDENT_ROWS
    )
    corpus = load_corpus(settings.corpus, tokenizers)  # type: ignore[arg-type]
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    result = run_job(job_dir)
    logged = [
        line["metrics"] for line in read_metrics(job_dir / "metrics.jsonl") if "loss" in line["metrics"]
    ]
    assert result.metrics["refused_documents"] == 0
    assert all(line["target_share"] >= 0.97 for line in logged)
    assert all(math.isfinite(line["forward_kl"]) and line["forward_kl"] > 0 for line in logged)
    assert (result.student_dir / "model.safetensors").exists()

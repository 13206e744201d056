"""What a run needs at its end is tried before its start: settings of generation, models without a cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_settings import make_settings
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from distillation.aligners.build import build_aligner
from distillation.config import EvaluationSettings, ModelReference
from distillation.corpus.loading import load_corpus
from distillation.errors import ModelError
from distillation.evaluation.evaluate import evaluate_models
from distillation.evaluation.speed import measure_speed
from distillation.models.lm_head import reads_later_tokens
from distillation.models.load import load_model, load_pair
from distillation.training.job import prepare_job
from distillation.training.run import run_job
from distillation.training.trial import make_savable, try_saving

SIZES: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_heads": 8,
        "head_dim": 8,
        "expand": 2,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "falcon_mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 256},
    "recurrent_gemma": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "lru_width": 32,
        "head_dim": 16,
        "attention_window_size": 64,
    },
}


def state_space_model(kind: str, num_rows: int = 96) -> Any:
    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": num_rows}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **tokens, **SIZES[kind])).eval()


@pytest.mark.parametrize("kind", SIZES)
def test_a_model_without_a_cache_is_measured(kind: str) -> None:
    speed = measure_speed(state_space_model(kind), None, batch_size=1, length=16, num_new_tokens=3)
    assert speed.generated_tokens_per_second > 0


def job_of(teacher: Path, student: Path, documents: list[str], folder: Path, **terms: float) -> Any:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text[:400]}) + "\n" for text in documents[:30]))
    settings = make_settings(teacher, student, path, max_steps=1, batch_size=2, evaluations=1)
    if terms:
        objective = settings.objective.model_copy(
            update={"terms": settings.objective.terms.model_copy(update=terms)}
        )
        settings = settings.model_copy(update={"objective": objective})
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner("prefix", *tokenizers.values(), **rows)
    return settings, corpus, prepare_job(corpus, settings=settings, aligner=aligner, output_dir=folder)


def test_state_space_models_train_teach_and_are_measured(
    tiny_teacher_dir, tiny_student_dir, english_documents, tmp_path
) -> None:
    for role, source, rows in (("teacher", tiny_teacher_dir, 608), ("student", tiny_student_dir, 400)):
        state_space_model("mamba2", rows).save_pretrained(tmp_path / role)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, tmp_path / role / name)
    settings, corpus, job_dir = job_of(
        tmp_path / "teacher", tmp_path / "student", english_documents, tmp_path, hidden=0.1
    )
    result = run_job(job_dir, on_estimate=lambda line: None)
    evaluation = evaluate_models(
        {"distilled": result.student_dir},
        settings.models.teacher,
        corpus.test_texts[:2],
        EvaluationSettings(max_length=64, stride=48, tasks=(), prompts=("Return",), num_new_tokens=3),
        held_out_fingerprint="none",
        device="cpu",
        show_progress=False,
    )
    assert evaluation.results["distilled"].samples[0].num_tokens == 3
    assert evaluation.results["teacher"].bits_per_byte < 30


@pytest.mark.parametrize(
    "flags",
    [
        {"temperature": 0.6, "top_p": 0.9},
        {"typical_p": 0.4, "top_k": 7, "min_p": 0.1},
        {"num_return_sequences": 3},
        {"early_stopping": True, "length_penalty": 2.0},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_flags_of_generation_do_not_keep_a_student_from_being_written(tmp_path, flags) -> None:
    model = state_space_model("mamba")
    model.generation_config = GenerationConfig(eos_token_id=0, max_new_tokens=9)
    for name, value in flags.items():
        setattr(model.generation_config, name, value)
    make_savable(model, "models.student.path = x")
    model.generation_config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert not written.keys() & flags.keys()
    assert written["max_new_tokens"] == 9


def test_flags_that_have_an_effect_stay() -> None:
    model = state_space_model("mamba")
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
    make_savable(model, "models.student.path = x")
    assert (model.generation_config.temperature, model.generation_config.top_p) == (0.6, 0.9)


def test_a_student_with_flags_of_generation_is_trained_and_saved(
    tiny_teacher_dir, tiny_student_dir, english_documents, tmp_path
) -> None:
    """The Trainer sets the pad token, and transformers writes a changed configuration only if it is valid."""
    student = tmp_path / "student"
    shutil.copytree(tiny_student_dir, student)
    flags = {"bos_token_id": 0, "eos_token_id": 0, "temperature": 0.6, "top_p": 0.9}
    (student / "generation_config.json").write_text(json.dumps(flags))
    config = json.loads((student / "config.json").read_text()) | {"pad_token_id": None}
    (student / "config.json").write_text(json.dumps(config))
    result = run_job(
        job_of(tiny_teacher_dir, student, english_documents, tmp_path)[2], on_estimate=lambda line: None
    )
    assert load_file(result.student_dir / "model.safetensors")
    assert not [one.name for one in result.job_dir.iterdir() if one.name.startswith(".trial")]


def test_what_cannot_be_written_is_one_line_before_the_training(tmp_path) -> None:
    model = state_space_model("mamba")
    model.config.odd = {1, 2}  # no JSON
    with pytest.raises(ModelError, match=r"^models\.student\.path = x: its configuration and tokenizer"):
        try_saving(model, None, tmp_path, "models.student.path = x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_model_that_reads_later_tokens_is_refused(tmp_path, is_decoder: bool, dtype: torch.dtype) -> None:
    """With weights as they are drawn, which let later tokens weigh little, and in few digits too."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model("bert", vocab_size=96, is_decoder=is_decoder, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(tmp_path)
    reference = ModelReference(path=str(tmp_path))
    if is_decoder:
        assert all(parameter.grad is None for parameter in load_model(reference, "student").parameters())
        return
    with pytest.raises(ModelError, match=r"^models\.student\.path = .* reads the tokens that it is asked to"):
        load_model(reference, "student")


@pytest.mark.parametrize("kind", SIZES)
def test_a_state_space_model_reads_no_later_tokens(kind: str) -> None:
    assert not reads_later_tokens(state_space_model(kind))

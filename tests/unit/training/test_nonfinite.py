"""Numbers that are none: seen at their step, named, kept for study, skipped exactly or a stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_settings import make_settings

from distillation.aligners.build import build_aligner
from distillation.config import CacheSettings, ModelReference
from distillation.corpus.documents import Document, is_held_out
from distillation.corpus.loading import load_corpus
from distillation.errors import JobError, ModelError
from distillation.metrics_log import read_metrics
from distillation.models.finite import nonfinite_tensor
from distillation.models.load import load_model, load_pair, load_tokenizer
from distillation.teachers.cache.fill import fill_cache, prepare_cache
from distillation.training.job import prepare_job
from distillation.training.run import run_job

MARK = "☃"
"""Its last byte is a token that no other text has."""


def overflowing(source: Path, target: Path) -> Path:
    """A model whose weights are finite and whose states after `MARK` are not."""
    from transformers import GraniteConfig, GraniteForCausalLM

    tokenizer = load_tokenizer(ModelReference(path=str(source)), "student")
    torch.manual_seed(3)
    config = GraniteConfig(
        vocab_size=len(tokenizer) + 8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=256,
        embedding_multiplier=12.0,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GraniteForCausalLM(config)
    token = tokenizer(MARK, add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = 3e38
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_teacher_dir, tiny_student_dir, english_documents) -> Any:
    folder = tmp_path_factory.mktemp("overflowing")
    models = {
        "teacher": overflowing(tiny_teacher_dir, folder / "teacher"),
        "student": overflowing(tiny_student_dir, folder / "student"),
    }
    rows = []
    for place, text in enumerate(english_documents[:30]):
        # Held-out text stays as it is: the models must be able to be measured.
        text = text[:500]
        marked = text[:200] + MARK + text[200:]
        is_training = not is_held_out(Document(marked, "").document_id, 0.2)
        rows.append(json.dumps({"text": marked if place % 2 == 0 and is_training else text}))
    path = folder / "documents.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return models, path, {"teacher": tiny_teacher_dir, "student": tiny_student_dir}


def job_of(parts: Any, output_dir: Path, faulty: str, **training: Any) -> Path:
    models, path, sound = parts
    chosen = sound | {faulty: models[faulty]} if faulty else sound
    options = {"batch_size": 2, "max_steps": 8, "evaluations": 4, "gradient_accumulation_steps": 2} | training
    settings = make_settings(chosen["teacher"], chosen["student"], path, **options)
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner("prefix", *tokenizers.values(), **rows)
    return prepare_job(corpus, settings=settings, aligner=aligner, output_dir=output_dir)


@pytest.mark.parametrize(("faulty", "terms"), [("teacher", "forward_kl"), ("student", "cross_entropy")])
def test_the_run_stops_and_names_step_term_document_and_batch(
    parts, tmp_path, faulty: str, terms: str
) -> None:
    job_dir = job_of(parts, tmp_path, faulty)
    with pytest.raises(JobError) as caught:
        run_job(job_dir, on_estimate=lambda line: None)
    message = str(caught.value)
    assert "\n" not in message
    assert f"what the {faulty} says" in message
    assert terms in message
    assert "documents.jsonl:" in message
    folder = next((job_dir / "nonfinite").iterdir())
    assert str(folder) in message
    assert message.startswith(f"step {folder.name.removeprefix('step-')}: ")
    assert load_file(next(folder.glob("*.safetensors")))["input_ids"].shape[0] == 2
    assert json.loads((folder / "finding-0.json").read_text())["windows"]
    assert not (job_dir / "student").exists()
    assert json.loads((job_dir / "status.json").read_text())["state"] != "finished"


def test_steps_are_skipped_up_to_a_number_and_counted_across_a_resume(parts, tmp_path) -> None:
    job_dir = job_of(parts, tmp_path / "whole", "teacher", on_nonfinite=8, keep_checkpoints=6)
    result = run_job(job_dir, on_estimate=lambda line: None)
    skipped = len(list((job_dir / "nonfinite").iterdir()))
    assert 1 < skipped == result.metrics["skipped_steps"]
    assert all(
        all(value == value for value in line["metrics"].values())  # no NaN in the log
        for line in read_metrics(job_dir / "metrics.jsonl")
    )
    expected = load_file(job_dir / "student" / "model.safetensors")
    assert nonfinite_tensor(expected.items()) is None

    # As if it had been killed after the second checkpoint.
    shutil.rmtree(job_dir / "student")
    (job_dir / "status.json").unlink()
    for checkpoint in (job_dir / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > 4:
            shutil.rmtree(checkpoint)
    again = run_job(job_dir, on_estimate=lambda line: None)
    assert again.metrics | {"seconds": 0.0} == result.metrics | {"seconds": 0.0}
    found = load_file(job_dir / "student" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    few = job_of(parts, tmp_path / "few", "teacher", on_nonfinite=skipped - 1)
    with pytest.raises(JobError, match=rf"\({skipped - 1} were skipped before\)"):
        run_job(few, on_estimate=lambda line: None)


def test_a_skipped_step_leaves_no_trace(parts, tmp_path) -> None:
    """Its gradient, its decay and the moments of the optimiser: as if the optimiser had not been asked."""
    from transformers import TrainerCallback

    from distillation.training.job import read_job
    from distillation.training.run import TrainingRun
    from distillation.training.trainer import distilling

    job_dir = job_of(parts, tmp_path, "teacher", on_nonfinite=8, max_steps=4, weight_decay=0.5)
    run = TrainingRun(job_dir, read_job(job_dir))
    seen = []

    def weights() -> dict[str, torch.Tensor]:
        return {name: parameter.clone() for name, parameter in run.student.named_parameters()}

    with distilling(run.student, run.objective):
        trainer = run._trainer()
        skip = trainer._pass_over

        def noted(*args: Any) -> None:
            seen.append(
                (trainer.state.global_step, {n: p.clone() for n, p in run.student.named_parameters()})
            )
            skip(*args)
            assert all(parameter.grad is None for parameter in run.student.parameters())

        trainer._pass_over = noted  # type: ignore[method-assign]
        states: dict[int, dict[str, torch.Tensor]] = {}

        class After(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                states[state.global_step] = weights()

        trainer.add_callback(After())
        trainer.train()
    assert seen
    for step, before in seen:
        assert all(torch.equal(before[name], states[step + 1][name]) for name in before)


@pytest.mark.parametrize("bound", [1.2, 1e6])
def test_a_diverging_training_is_never_finished(parts, tmp_path, bound: float) -> None:
    """By its held-out bits beside those before the training; without that bound by a loss that is none."""
    learning_rate = {"learning_rate": 1.0, "max_grad_norm": 1e30, "weight_decay": 3.0 if bound < 2 else 1e12}
    job_dir = job_of(parts, tmp_path, "", max_divergence=bound, max_steps=20, **learning_rate)
    with pytest.raises(JobError, match=r"lower training\.learning_rate") as caught:
        run_job(job_dir, on_estimate=lambda line: None)
    assert ("before the training" in str(caught.value)) == (bound < 2)
    assert not (job_dir / "student").exists()
    assert json.loads((job_dir / "status.json").read_text())["state"] != "finished"


def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(tiny_teacher_dir, tmp_path) -> None:
    from safetensors.torch import save_file

    shutil.copytree(tiny_teacher_dir, tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"][3, 5] = torch.nan
    save_file(weights, tmp_path / "teacher" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"models\.teacher\.path.*layers\.1\.self_attn\.q_proj\.weight"):
        load_model(ModelReference(path=str(tmp_path / "teacher")), "teacher")


def test_a_cache_is_not_filled_with_what_is_no_number(parts, tmp_path) -> None:
    models, path, sound = parts
    settings = make_settings(models["teacher"], sound["student"], path)
    settings = settings.model_copy(update={"cache": CacheSettings(windows_per_shard=16)})
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner("prefix", *tokenizers.values(), **rows)
    request = prepare_cache(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    with pytest.raises(ModelError, match=r"what the teacher says of the window '.*' is not finite"):
        fill_cache(request, on_estimate=lambda line: None)


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    sound, faulty = torch.full((4,), 3e38), torch.tensor([1.0, torch.inf])
    assert nonfinite_tensor([("a", sound), ("ids", torch.tensor([1])), ("none", torch.zeros(0))]) is None
    assert nonfinite_tensor([("a", sound), ("b", faulty.half()), ("c", faulty)]) == "b"


@pytest.mark.parametrize("least", [0.5, 0.0])
def test_fewer_targets_than_were_foretold_are_told_or_an_error(parts, tmp_path, caplog, least: float) -> None:
    """A teacher that is sure of a token which the student does not have: sound numbers, and no target."""
    from transformers import PhiConfig, PhiForCausalLM

    _, path, sound = parts
    teacher, student = (load_tokenizer(ModelReference(path=str(p)), "teacher") for p in sound.values())
    own = next(token for text, token in teacher.get_vocab().items() if text not in student.get_vocab())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = PhiConfig(vocab_size=len(teacher) + 8, max_position_embeddings=256, bos_token_id=0, **sizes)
    model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[own] = 1e3
    model.save_pretrained(tmp_path / "teacher")
    teacher.save_pretrained(tmp_path / "teacher")
    settings = make_settings(
        tmp_path / "teacher", sound["student"], path, max_steps=1, evaluations=1, least_targets=least
    )
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner("shared", *tokenizers.values(), **rows)
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    if least:
        with pytest.raises(JobError, match=r"^step 1: 0 positions .*training\.least_targets = 0\.5"):
            run_job(job_dir, on_estimate=lambda line: None)
        return
    run_job(job_dir, on_estimate=lambda line: None)
    assert "step 1: 0 positions got a target of the teacher" in caplog.text

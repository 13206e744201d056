"""The whole comparison on the tiny pair: loading, every measure, and what is said to be missing."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from pydantic import ValidationError

from distillation.config import EvaluationSettings, ModelReference, ModelSettings, Settings
from distillation.errors import JobError, ModelError
from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.evaluate import evaluate_models, measure_student
from distillation.evaluation.loading import decided, load_for_evaluation
from distillation.evaluation.result import Evaluation, ModelResult, completeness, flat_metrics
from distillation.models.decision import decide
from distillation.models.load import load_model, load_tokenizer
from distillation.report.page import report_page

SETTINGS = EvaluationSettings(max_length=64, stride=48, batch_size=16, num_new_tokens=6, task_limit=10)


@pytest.fixture(scope="module")
def texts(english_documents):
    return [document[:500] for document in english_documents[:6]]


@pytest.fixture(scope="module")
def evaluation(tiny_teacher_dir, tiny_student_dir, texts):
    entries = {"distilled": ModelReference(path=str(tiny_student_dir))}
    entries |= {"untouched": tiny_student_dir, "odd": tiny_student_dir}
    return evaluate_models(
        entries,
        tiny_teacher_dir,
        texts,
        SETTINGS,
        held_out_fingerprint="0123456789abcdef",
        device="cpu",
        show_progress=False,
    )


def test_every_model_is_measured(evaluation, tiny_student_dir, texts):
    assert list(evaluation.results) == ["untouched", "distilled", "teacher", "odd"]
    result = evaluation.results["distilled"]
    reference = ModelReference(path=str(tiny_student_dir))
    measured = bits_per_byte(
        load_model(reference, "student", dtype="float32"),
        load_tokenizer(reference, "student"),
        texts,
        max_length=64,
        stride=48,
        batch_size=1,
    )
    assert result.bits_per_byte == pytest.approx(measured.bits_per_byte, rel=1e-5)
    assert result.num_bytes == evaluation.num_held_out_bytes == sum(len(t.encode()) for t in texts)
    assert result.dtype == "float32"
    assert result.agreement.num_positions > 50
    assert 0 <= result.agreement.top1_agreement <= 1
    assert [sample.prompt for sample in result.samples] == list(SETTINGS.prompts)
    assert result.speed.forward_tokens_per_second > 0
    assert result.speed.size_on_disk == (tiny_student_dir / "model.safetensors").stat().st_size
    teacher = evaluation.results["teacher"]
    assert teacher.agreement is None
    assert teacher.speed.num_active_parameters < teacher.speed.num_parameters


def test_same_model_same_figures(evaluation):
    first, second = evaluation.results["untouched"], evaluation.results["distilled"]
    assert first.bits_per_byte == second.bits_per_byte
    assert first.agreement == second.agreement
    assert first.samples == second.samples


def test_tasks_are_asked_of_every_model(evaluation):
    for result in evaluation.results.values():
        assert [(one.name, one.metric, one.num_items) for one in result.tasks] == [
            ("cloze", "acc", 10),
            ("choice", "acc", 10),
            ("choice", "acc_bytes", 10),
        ]
    assert evaluation.results["untouched"].tasks == evaluation.results["distilled"].tasks
    metrics = flat_metrics(evaluation)
    assert metrics["distilled.task.choice.acc_bytes"] == evaluation.results["distilled"].tasks[2].value
    assert not any("task" in phrase for phrase in completeness(evaluation))


def test_it_goes_through_json(evaluation):
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_flat_metrics_are_finite_floats_with_dotted_names(evaluation):
    metrics = flat_metrics(evaluation)
    assert metrics["distilled.bits_per_byte"] == evaluation.results["distilled"].bits_per_byte
    assert "teacher.top1_agreement" not in metrics
    assert "distilled.gap_closed" not in metrics  # without text_only no gap is known
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())


def test_completeness_names_what_is_missing(evaluation):
    missing = completeness(evaluation)
    assert "model text_only was not evaluated" in missing
    assert "model truncate was not evaluated" in missing
    assert any("gap" in phrase for phrase in missing)
    assert not any("samples" in phrase or "agreement" in phrase for phrase in missing)


def test_a_model_that_is_not_there_is_one_line(tiny_teacher_dir, texts, tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        evaluate_models(
            {"distilled": tmp_path / "nothing"}, tiny_teacher_dir, texts[:1],
            EvaluationSettings(max_length=64, stride=48, num_new_tokens=0),
            held_out_fingerprint="x", device="cpu", show_progress=False,
        )  # fmt: skip


def test_the_recorded_formats_are_obeyed(evaluation, tiny_teacher_dir, tiny_student_dir, monkeypatch):
    """As decided for the training, whatever would be decided here and now."""
    models = ModelSettings(
        teacher=ModelReference(path=str(tiny_teacher_dir), dtype="bfloat16"),
        student=ModelReference(path=str(tiny_student_dir)),
        device="cpu",
    )
    decision = decide(Settings(models=models))
    chosen = decided(tiny_teacher_dir, "auto", decision)
    assert load_for_evaluation(tiny_teacher_dir, "teacher", chosen)[0].dtype == torch.bfloat16
    assert load_for_evaluation(tiny_student_dir, "student", chosen)[0].dtype == torch.float32
    assert evaluation.decision == decided(tiny_teacher_dir, "cpu", None)

    recorded = evaluation.model_copy(update={"decision": decision})
    assert Evaluation.model_validate_json(recorded.model_dump_json()).decision == decision
    assert decision.summary in report_page(recorded)
    monkeypatch.setattr("distillation.models.decision.cuda_problem", lambda: "no CUDA device answers")
    elsewhere = decision.model_copy(update={"device": "cuda"})
    with pytest.raises(JobError, match=r"evaluation: it was begun on a GPU, .*; .* set models\.device"):
        evaluate_models({}, tiny_teacher_dir, [], SETTINGS, held_out_fingerprint="x", decision=elsewhere)


@pytest.fixture
def overflowing(tiny_student_dir, tmp_path):
    """A student whose weights are finite and whose output is not."""
    from safetensors.torch import load_file, save_file

    directory = shutil.copytree(tiny_student_dir, tmp_path / "overflowing")
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 3e38)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize("name", ["distilled", "untouched"])
def test_a_student_whose_figures_are_no_numbers_is_one_line(tiny_teacher_dir, overflowing, texts, name):
    with pytest.raises(
        ModelError, match=rf"^{name} \({overflowing}\): its bits per byte .* is (nan|inf);"
    ) as info:
        measure_student(
            name, overflowing, tiny_teacher_dir, texts, SETTINGS, device="cpu", show_progress=False
        )
    assert ("learning_rate" in str(info.value)) == (name == "distilled")


def test_a_teacher_whose_figures_are_no_numbers_is_one_line(tiny_student_dir, overflowing, texts):
    with pytest.raises(ModelError, match=r"^teacher .*: its bits per byte .*models\.teacher\.dtype"):
        evaluate_models(
            {"distilled": tiny_student_dir}, overflowing, texts, SETTINGS,
            held_out_fingerprint="x", device="cpu", show_progress=False,
        )  # fmt: skip


def test_what_is_no_number_cannot_be_a_result(evaluation):
    fields = evaluation.results["distilled"].model_dump()
    for name in ("bits_per_byte", "expected_calibration_error"):
        with pytest.raises(ValidationError, match="finite"):
            ModelResult.model_validate(fields | {name: math.nan})

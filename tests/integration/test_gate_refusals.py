"""The gate with real students, really evaluated: the broken, the tied and the incomparable are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillation.config import EvaluationSettings, ModelReference, PromotionSettings
from distillation.errors import PromotionError
from distillation.evaluation.evaluate import evaluate_models
from distillation.evaluation.result import Evaluation, gap_closed
from tracking.gate import GateReport
from tracking.registry import current_champion

SAMPLE = Path(__file__).resolve().parents[2] / "distillation" / "sample"
EVALUATION = EvaluationSettings(
    controls=("text_only",), max_length=128, stride=96, prompts=("The",), num_new_tokens=3, tasks=()
)
FIELDS = ("distilled.bits_per_byte", "text_only.bits_per_byte")


def changed_student(target: Path, change: Callable) -> Path:
    """Save the embedded student, with an output layer of its own and after `change`, in `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(SAMPLE / "student", dtype=torch.float32)
    if model.config.tie_word_embeddings:
        weight = model.get_input_embeddings().weight.detach().clone()
        model.lm_head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        model.lm_head.weight = torch.nn.Parameter(weight)
        model.config.tie_word_embeddings = False
    with torch.no_grad():
        change(model)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(SAMPLE / "student").save_pretrained(target)
    return target


def evaluate(students: dict[str, Path], texts: list[str], held_out: str) -> Evaluation:
    """Measure students and their teacher, the embedded one, each once."""
    return evaluate_models(
        students,
        ModelReference(),
        texts,
        EVALUATION,
        held_out_fingerprint=held_out,
        device="cpu",
        show_progress=False,
    )


@dataclass(frozen=True)
class Bench:
    """A store, students and documents; `record` is what the last step of a distillation does."""

    uri: str
    students: dict[str, Path]
    evaluations: dict[str, Evaluation]
    """All students by the name of the held-out set that they were measured on."""

    @property
    def settings(self) -> PromotionSettings:
        return PromotionSettings(experiment="refusals", uri=self.uri, export_dir=None)

    def record(self, name: str, distilled: str, held_out: str) -> None:
        """Record a finished run whose distilled student is this one, beside the control and the teacher."""
        from distillation.evaluation.result import completeness, flat_metrics
        from tracking.registry import HELD_OUT_TAG, MISSING_TAG, MODEL_URI_TAG, PIPELINE_ROLE, ROLE_TAG
        from tracking.runs import Recorder, RunSpec
        from tracking.students import log_student

        measured = self.evaluations[held_out]
        roles = {"untouched": "control", "text_only": "control", "distilled": distilled, "teacher": "teacher"}
        results = {
            role: measured.results[model].model_copy(update={"name": role}) for role, model in roles.items()
        }
        teacher, control = results["teacher"], results["text_only"]
        closed = gap_closed(results["distilled"], control, teacher)
        results["distilled"] = results["distilled"].model_copy(update={"gap_closed": closed})
        evaluation = measured.model_copy(update={"results": results})
        recorder = Recorder(self.uri, "refusals")
        run_id = recorder.open(RunSpec(name, name, {ROLE_TAG: PIPELINE_ROLE}))
        recorder.log_metrics(run_id, flat_metrics(evaluation), time_ms=int(time.time() * 1000))
        uri = log_student(recorder, run_id, self.students[distilled], metadata={"variant": "distilled"})
        recorder.set_tags(
            run_id,
            {
                HELD_OUT_TAG: evaluation.held_out_fingerprint,
                MODEL_URI_TAG: uri,
                MISSING_TAG: "; ".join(completeness(evaluation)),
            },
        )
        recorder.close(run_id)

    def check(self, name: str) -> GateReport:
        """Let the two steps of the promotion look at this run alone."""
        from steps.check_gate import check_gate
        from tracking.gate import Contest
        from tracking.registry import finished_runs
        from tracking.runs import Recorder

        recorder = Recorder(self.uri, "refusals")
        [candidate] = [run for run in finished_runs(recorder) if run.run_name == name]
        champion = current_champion(recorder, "student")
        contest = Contest(candidate=candidate, champion=champion, num_runs=1)
        return check_gate.entrypoint(contest, self.settings)

    def refusal(self, name: str) -> str:
        with pytest.raises(PromotionError) as caught:
            self.check(name)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, english_documents: list[str]) -> Bench:
    import torch

    root = tmp_path_factory.mktemp("refusals")
    generator = torch.Generator().manual_seed(0)

    def disturb(model) -> None:
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std() * noise if parameter.dim() > 1 else 0.0)

    def shuffle(model) -> None:
        rows = torch.randperm(len(model.lm_head.weight), generator=generator)
        model.lm_head.weight.copy_(model.lm_head.weight[rows])

    students = {
        "good": changed_student(root / "good", lambda model: None),
        "control": changed_student(root / "control", disturb),
        "shuffled": changed_student(root / "shuffled", shuffle),
    }
    texts = [document[:600] for document in english_documents]
    evaluations = {
        "first-set": evaluate(students, texts[:6], "first-set"),
        "second-set": evaluate(
            {name: students[name] for name in ("good", "control")}, texts[6:12], "second-set"
        ),
    }
    return Bench(f"sqlite:///{root}/mlflow.db", students, evaluations)


def test_the_same_student_unbroken_passes(bench: Bench) -> None:
    """Else the refusals below would say nothing."""
    from tracking.registration import promote
    from tracking.registry import finished_runs
    from tracking.runs import Recorder

    bench.record("good", "good", "first-set")
    report = bench.check("good")
    assert report.passed
    recorder = Recorder(bench.uri, "refusals")
    [candidate] = [run for run in finished_runs(recorder) if run.run_name == "good"]
    assert candidate.metrics["distilled.advantage_low"] > 0
    assert promote(recorder, candidate, bench.settings, "# Card\n").is_champion


def test_a_student_with_shuffled_output_rows_is_refused(bench: Bench) -> None:
    bench.record("shuffled", "shuffled", "first-set")
    line = bench.refusal("shuffled")
    assert "better than text_only: distilled.bits_per_byte = " in line
    assert "text_only.bits_per_byte = " in line
    assert "measurable advantage: distilled.advantage_low = -" in line
    distilled, control = (float(line.split(f"{name} = ")[1].split(",")[0]) for name in FIELDS)
    assert distilled > 1.5 * control  # it is broken, not merely worse


def test_a_student_tied_with_its_control_is_refused(bench: Bench) -> None:
    bench.record("tied", "control", "first-set")
    line = bench.refusal("tied")
    distilled, control = (line.split(f"{name} = ")[1].split(",")[0] for name in FIELDS)
    assert distilled == control
    assert "required margin 0.5 %" in line
    assert "distilled.advantage_low = 0.0000, must be above 0" in line


def test_a_student_evaluated_on_another_held_out_set_is_refused(bench: Bench) -> None:
    champion = current_champion_of(bench)
    bench.record("elsewhere", "good", "second-set")
    line = bench.refusal("elsewhere")
    assert "same held-out documents as the champion: second-set here, first-set for models:/student" in line
    assert "better than text_only" not in line  # all else about it is well
    assert current_champion_of(bench) == champion


def test_the_best_run_of_another_set_does_not_even_become_challenger(bench: Bench) -> None:
    from steps.choose_best_run import choose_best_run
    from tracking.runs import Recorder
    from tracking.versions import read_versions

    contest = choose_best_run.entrypoint(bench.settings)
    assert contest.candidate.held_out_fingerprint == "first-set"  # the champion's set decides who competes
    versions = read_versions(Recorder(bench.uri, "refusals").client, "student")
    assert [version.run_name for version in versions] == ["good"]


def current_champion_of(bench: Bench) -> str:
    from tracking.runs import Recorder

    champion = current_champion(Recorder(bench.uri, "refusals"), "student")
    assert champion is not None
    return champion.run_name

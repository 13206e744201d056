"""Tasks of the user's own folder and of the hub: really run, or one line that says why not."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from distillation.config import EvaluationSettings, ModelReference, parse_settings
from distillation.errors import SettingsError
from distillation.evaluation.result import completeness
from distillation.evaluation.task_folder import check_tasks
from distillation.evaluation.tasks import measure_tasks, prepared_tasks
from distillation.models.load import load_model, load_tokenizer

ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = [
    {"question": f"Which comes after {number}", "options": [str(number + 1), "none", "a house"], "right": 0}
    for number in range(12)
]
CHOICE = {
    "task": "after",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}:",
    "doc_to_choice": "options",
    "doc_to_target": "right",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
    ],
}
WRITTEN = CHOICE | {
    "task": "written",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}:",
    "doc_to_target": "{{options[0]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
del WRITTEN["doc_to_choice"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    write(tmp_path, CHOICE)
    return tmp_path


@pytest.fixture(scope="module")
def student(tiny_student_dir):
    reference = ModelReference(path=str(tiny_student_dir))
    return load_model(reference, "student", dtype="float32"), load_tokenizer(reference, "student")


def write(folder, definition, name=None):
    (folder / f"{name or definition['task']}.yaml").write_text(yaml.safe_dump(definition))


def settings(folder, *tasks, **more):
    return EvaluationSettings(tasks=tasks, task_dir=str(folder), **more)


def run(chosen, student, texts=()):
    with prepared_tasks(list(texts), chosen) as tasks:
        return measure_tasks(tasks, *student, tokens_per_batch=512)


def test_a_folder_of_ones_own_is_run(folder, student, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # data files stand beside their YAML
    chosen = settings(folder, "after", task_limit=9)
    check_tasks(chosen)
    results = run(chosen, student)
    assert [(one.name, one.metric) for one in results] == [("after", "acc"), ("after", "acc_norm")]
    for one in results:
        assert 0 <= one.value <= 1
        assert one.num_items == 9
        assert one.chance == pytest.approx(1 / 3)
        assert one.standard_error is not None


def test_functions_groups_and_written_answers(folder, student):
    (folder / "helpers.py").write_text("def text(item):\n    return item['question'] + '?'\n")
    content = yaml.safe_dump(CHOICE | {"task": "asked"}).replace(
        "doc_to_text: '{{question}}:'", "doc_to_text: !function helpers.text"
    )
    assert "!function" in content
    (folder / "asked.yaml").write_text(content)
    write(folder, WRITTEN)
    group = {
        "group": "both",
        "task": ["after", "asked"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
    }
    write(folder, group, "both")
    chosen = settings(folder, "both", "written")
    check_tasks(chosen)
    results = {(one.name, one.metric): one for one in run(chosen, student)}
    alone = {one.name: one for one in run(settings(folder, "after", "asked"), student) if one.metric == "acc"}
    assert list(results) == [("both", "acc"), ("written", "exact_match")]
    both = results["both", "acc"]
    assert both.num_items == 2 * len(QUESTIONS)
    assert both.value == pytest.approx((alone["after"].value + alone["asked"].value) / 2)
    assert both.standard_error is not None
    assert results["written", "exact_match"].value == 0.0
    assert results["written", "exact_match"].chance is None


def test_few_shots_are_the_same_for_every_model(folder, student):
    write(folder, CHOICE | {"task": "shown", "num_fewshot": 2, "fewshot_split": "test"})
    with prepared_tasks([], settings(folder, "shown")) as tasks:
        seen = []
        for _ in range(2):
            measure_tasks(tasks, *student, tokens_per_batch=512)
            seen.append([one.args for one in tasks.loaded["shown"]["tasks"]["shown"].instances])
    assert seen[0] == seen[1]
    assert seen[0][0][0].count("Which comes after") == 3


def test_a_task_that_fails_costs_only_itself(folder, student, caplog):
    # Fails at the fourth item, when the task is loaded long since.
    (folder / "broken.py").write_text("def text(item):\n    return str(1 // (item['question'][-1] != '3'))\n")
    content = yaml.safe_dump(CHOICE | {"task": "broken"}).replace("'{{question}}:'", "!function broken.text")
    (folder / "broken.yaml").write_text(content)
    write(folder, CHOICE | {"task": "empty", "test_split": "nowhere"})
    results = run(settings(folder, "broken", "empty", "after"), student)
    assert [one.name for one in results] == ["broken", "empty", "after", "after"]
    assert results[0].reason.startswith("it failed (ZeroDivisionError")
    assert results[1].reason.startswith("it cannot be loaded (KeyError")
    assert "nowhere" in results[1].reason
    assert results[0].value is None
    assert results[2].value is not None
    assert all("\n" not in one.reason for one in results[:2])
    assert len([record for record in caplog.records if "broken" in record.getMessage()]) == 1


# ----------------------------------------------------------------------------- said before training


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("task: [unclosed", ["evaluation.task_dir", "bad.yaml", "mend or remove"]),
        ("- a list", ["bad.yaml", "got list"]),
        ("include: nothing.yaml\ntask: x", ["bad.yaml", "nothing.yaml"]),
        ("task: cloze", ["bad.yaml", "embedded task", "another"]),
        (
            "task: x\ndataset_path: json\ndataset_kwargs: {data_files: gone.jsonl}",
            ["data_files", "gone.jsonl"],
        ),
        ("task: x\ndataset_path: json\ndoc_to_text: !function helpers.gone", ["bad.yaml", "helpers"]),
    ],
)
def test_a_faulty_folder_is_one_line(folder, definition, words):
    (folder / "bad.yaml").write_text(definition)
    with pytest.raises(SettingsError) as caught:
        check_tasks(settings(folder, "after"))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "odd.yaml", "/"])
def test_what_is_no_file_does_not_hang(folder, target):
    if target == "pipe":
        os.mkfifo(folder / "odd.yaml")
    else:
        (folder / "odd.yaml").symlink_to(target)
    with pytest.raises(SettingsError, match=r"odd\.yaml: no task of lm-eval \(") as caught:
        check_tasks(EvaluationSettings(tasks=(), task_dir=str(folder)))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_tasks_named_twice():
    with pytest.raises(SettingsError, match=r"evaluation\.task_dir = /no/such: there is no such folder"):
        check_tasks(EvaluationSettings(task_dir="/no/such"))
    with pytest.raises(SettingsError, match="task cloze is named twice"):
        parse_settings({"evaluation": {"tasks": ["cloze", "cloze"]}})
    with pytest.raises(SettingsError, match=r"evaluation\.task_limit = 0"):
        parse_settings({"evaluation": {"task_limit": 0}})


def test_embedded_tasks_are_checked_without_the_library(monkeypatch):
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    check_tasks(EvaluationSettings())
    with pytest.raises(ImportError):
        check_tasks(EvaluationSettings(tasks=("hellaswag",)))


@pytest.mark.slow
def test_names_of_the_library_and_unknown_ones(folder):
    with pytest.raises(SettingsError, match="unknown task hellaswagg: did you mean hellaswag"):
        check_tasks(settings(folder, "after", "hellaswagg"))


# ------------------------------------------------------------------------------------------ the hub


@pytest.mark.slow
def test_a_task_of_the_hub_without_the_hub_is_left_out(
    student, monkeypatch, tmp_path, make_evaluation, caplog
):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (result,) = run(EvaluationSettings(tasks=("hellaswag",)), student)
    assert result.value is None
    assert "cannot be loaded" in result.reason
    assert len([record for record in caplog.records if "hellaswag" in record.getMessage()]) == 1

    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.0, teacher=1.7)
    results = {name: one.model_copy(update={"tasks": (result,)}) for name, one in evaluation.results.items()}
    missing = completeness(evaluation.model_copy(update={"results": results}))
    assert missing == [f"task hellaswag: {result.reason}"]


def test_a_hub_that_does_not_answer_is_asked_once_and_soon(folder, student, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("first", "second"):
        write(folder, CHOICE | {"task": name, "dataset_path": "someone/something", "dataset_kwargs": {}})
    with caplog.at_level(logging.WARNING):
        results = run(settings(folder, "first", "after", "second"), student)
    assert [one.value is None for one in results] == [True, False, False, True]
    assert results[0].reason == results[-1].reason
    assert "does not answer" in results[0].reason
    assert len([record for record in caplog.records if "is left out" in record.getMessage()]) == 2


def test_piqa_without_the_hub(shared_dir, tmp_path, student):
    """PIQA's questions beside their labels, as docs/tasks.md makes them."""
    evals = shared_dir / "evals"
    if not (evals / "piqa_valid.jsonl").is_file():
        pytest.skip("no ../shared/evals/piqa_valid.jsonl")
    lines = (evals / "piqa_valid.jsonl").read_text("utf-8").splitlines()
    labels = (evals / "piqa_valid-labels.lst").read_text().split()
    rows = [json.loads(line) | {"label": int(label)} for line, label in zip(lines, labels, strict=True)]
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    guide = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    (definition,) = re.findall(r"```yaml\n# tasks/piqa.yaml\n(.*?)```", guide, flags=re.DOTALL)
    (tmp_path / "piqa.yaml").write_text(definition)
    chosen = settings(tmp_path, "piqa", task_limit=6)
    with prepared_tasks([], chosen) as tasks:
        results = measure_tasks(tasks, *student, tokens_per_batch=512)
        asked = tasks.loaded["piqa"]["tasks"]["piqa"].instances
    assert [(one.metric, one.num_items, one.chance) for one in results] == [
        ("acc", 6, 0.5),
        ("acc_bytes", 6, 0.5),
    ]
    assert asked[0].args == (f"Question: {rows[0]['goal']}\nAnswer:", " " + rows[0]["sol1"])
    right = []
    for number, row in enumerate(rows[:6]):
        answers = [asked[2 * number + place].resps[0][0] for place in (0, 1)]
        right.append(answers[row["label"]] == max(answers))
    assert results[0].value == pytest.approx(sum(right) / 6)

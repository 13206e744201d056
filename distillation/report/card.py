"""The model card that travels with a student: what it is, where it comes from, how good it is, its limits.

Markdown with a YAML header, as the Hugging Face hub reads it. Text that models wrote stands in fenced blocks
whose fence is longer than any run of backticks inside, so that it cannot break out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation, ModelResult
from distillation.redaction import scrub
from distillation.report.tasks import chance_of, task_cells, task_measures
from distillation.report.words import (
    MISSING,
    SPACE,
    decimal,
    label,
    milliseconds,
    percent,
    scaled,
    verdict_details,
    verdict_sentence,
)

if TYPE_CHECKING:
    from distillation.config import Settings
    from distillation.corpus.corpus import CorpusReport


def model_card(
    evaluation: Evaluation,
    settings: Settings,
    *,
    name: str = "student",
    corpus_report: CorpusReport | None = None,
    origins: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the card of the distilled student.

    Args:
        evaluation: the comparison that it took part in.
        settings: all settings of its run.
        name: what the card calls it.
        corpus_report: the documents that it learned from.
        origins: further rows of the table of its provenance: digests of files, versions of libraries.
    """
    sections = [
        _header(evaluation, settings, name),
        f"# {name}\n\n{_plain(verdict_sentence(evaluation))}",
        _use(),
        _provenance(settings, corpus_report, evaluation, origins),
        _figures(evaluation),
        _speed(evaluation),
        _samples(evaluation.results.get(DISTILLED)),
        _limits(evaluation),
        _settings(settings),
    ]
    return scrub("\n\n".join(section for section in sections if section) + "\n")


def _header(evaluation: Evaluation, settings: Settings, name: str) -> str:
    import yaml

    result = evaluation.results.get(DISTILLED)
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["knowledge-distillation", "cross-tokenizer", "student-aware-distillation"],
    }
    student = settings.models.student.path
    if _is_hub_name(student):
        header |= {"base_model": student, "base_model_relation": "finetune"}
    if result is not None:
        metric = {"type": "bits_per_byte", "name": "Bits per byte", "value": round(result.bits_per_byte, 4)}
        dataset = {"type": "held-out", "name": f"held-out documents {evaluation.held_out_fingerprint}"}
        task = {"type": "text-generation"}
        header["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}
        ]
    return "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True) + "---"


def _use() -> str:
    return (
        "## Use\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH")\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH")\n'
        'inputs = tokenizer("Return a new list containing", return_tensors="pt")\n'
        "output = model.generate(**inputs, max_new_tokens=40, do_sample=False)\n"
        "print(tokenizer.decode(output[0], skip_special_tokens=True))\n"
        "```\n\n"
        "`PATH` is the directory that holds this card. In training and evaluation each text began with the "
        "tokenizer's start token."
    )


def _provenance(
    settings: Settings,
    report: CorpusReport | None,
    evaluation: Evaluation,
    origins: Sequence[tuple[str, str]],
) -> str:
    objective, alignment = settings.objective, settings.alignment
    rows = [
        ("Teacher", _model_name(settings.models.teacher)),
        ("Student before training", _model_name(settings.models.student)),
        ("Vocabulary alignment", alignment.name),
        ("Objective", objective.terms.description),
        ("Temperature", f"{objective.temperature:g}"),
        ("Seed", str(settings.seed)),
    ]
    if report is not None:
        size = f"{report.num_train_documents:,} documents, {scaled(report.train_bytes, 'B')}"
        rows += [
            ("Corpus", report.source),
            ("Training text", f"{size}, fingerprint `{report.train_fingerprint}`"),
        ]
    held_out = (
        f"{evaluation.num_held_out_documents:,} documents, {scaled(evaluation.num_held_out_bytes, 'B')}"
    )
    rows.append(("Held-out text", f"{held_out}, fingerprint `{evaluation.held_out_fingerprint}`"))
    return "## Where it comes from\n\n" + table(("", ""), [*rows, *origins])


def _figures(evaluation: Evaluation) -> str:
    rows = []
    for name, result in evaluation.results.items():
        agreement = result.agreement
        shown = f"**{label(name)}**" if name == DISTILLED else label(name)
        rows.append(
            (
                shown,
                decimal(result.bits_per_byte),
                percent(result.gap_closed, 1),
                percent(agreement.top1_agreement, 1) if agreement else MISSING,
                percent(result.expected_calibration_error, 1),
                scaled(result.speed.num_parameters),
            )
        )
    columns = ("Model", "Bits per byte", "Gap closed", "Top-1 agreement", "Calibration error", "Parameters")
    details = "\n".join(f"- {_plain(detail)}" for detail in verdict_details(evaluation)[1:])
    parts = ["## How good it is", table(columns, rows), details, _tasks(evaluation)]
    return "\n\n".join(part for part in parts if part)


def _tasks(evaluation: Evaluation) -> str:
    measures = task_measures(evaluation)
    if not measures:
        return ""
    cells = [task_cells(evaluation, name) for name in evaluation.results]
    rows = [
        (f"{task}, {metric}", percent(chance_of(evaluation, (task, metric)), 1), *figures)
        for (task, metric), figures in zip(measures, zip(*cells, strict=True), strict=True)
    ]
    columns = ("Task", "A guess", *map(label, evaluation.results))
    note = (
        "Tasks through lm-evaluation-harness, with standard errors; `cloze` and `choice` are made from the "
        "held-out text."
    )
    return note + "\n\n" + table(columns, rows)


def _speed(evaluation: Evaluation) -> str:
    rows = [
        (
            label(name),
            scaled(result.bytes_per_second, "B"),
            scaled(result.speed.generated_tokens_per_second),
            milliseconds(result.speed.first_token_ms),
            scaled(result.speed.peak_memory_bytes, "B"),
            scaled(result.speed.size_on_disk, "B"),
        )
        for name, result in evaluation.results.items()
        if name in (DISTILLED, TEACHER)
    ]
    columns = ("Model", "Read a second", "Tokens written a second", "First token", "Peak memory", "Weights")
    return f"## How fast it is\n\nOn {_cell(evaluation.machine)}.\n\n" + table(columns, rows)


def _samples(result: ModelResult | None) -> str:
    if result is None or not result.samples:
        return ""
    blocks = [_fenced(sample.prompt + "⟶" + sample.continuation) for sample in result.samples]
    return (
        "## What it writes\n\nGreedy continuations; the arrow marks where the prompt ends.\n\n"
        + "\n\n".join(blocks)
    )


def _limits(evaluation: Evaluation) -> str:
    return (
        "## Limits\n\n"
        "- Measured on held-out documents of the training corpus alone: what it does on other text, other "
        "languages or other tasks is not known.\n"
        "- The best checkpoint was chosen on other held-out documents than those measured here.\n"
        "- One run with one seed; intervals, where given, speak of the documents and not of other seeds.\n"
        "- A language model that continues text: not tuned to follow instructions, and not checked for "
        "truth, bias or safety.\n"
        "- It may repeat passages of its training text, and it inherits what its teacher got wrong.\n"
        f"- Windows of {evaluation.settings.max_length} tokens were evaluated; longer contexts were not.\n"
        "- Licences of the teacher, of the student's first weights and of the corpus apply."
    )


def _settings(settings: Settings) -> str:
    import yaml

    content = _without_folders(settings.model_dump(mode="json"))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return "## Settings\n\n" + _fenced(text.rstrip(), "yaml")


def _without_folders(value: Any) -> Any:
    """Return settings whose absolute paths are their last parts: a card may be published."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name or value
    return value


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; whatever the cells hold stays within them."""
    lines = [columns, ["---" for _ in columns], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return text that stays within its cell: no line ends, no column marks, no markup of HTML."""
    plain = " ".join(_plain(text).split())
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _plain(text: str) -> str:
    return text.replace(SPACE, " ")


def _fenced(text: str, language: str = "text") -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _model_name(reference: Any) -> str:
    """Return a name without the folders of this machine."""
    if reference.path == "sample":
        return "the embedded sample model of student-aware-distillation"
    name = reference.path if _is_hub_name(reference.path) else Path(reference.path).name
    return f"{name} at {reference.revision}" if reference.revision else name


def _is_hub_name(path: str) -> bool:
    return (
        re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
        and not path.startswith(".")
        and not Path(path).exists()
    )

"""A corpus of conversations through a whole training job, with two tokenizers and two templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from distillation.aligners.build import build_aligner
from distillation.config import parse_settings
from distillation.corpus.corpus import read_corpus
from distillation.corpus.loading import load_corpus
from distillation.corpus.windows import LengthBatchedSampler, make_windows
from distillation.errors import AlignmentError
from distillation.metrics_log import read_metrics
from distillation.models.load import configured_output_rows, load_tokenizer
from distillation.tokenizers.pairs import PairEncoder
from distillation.training.job import prepare_job
from distillation.training.run import run_job

TEACHER = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
STUDENT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ m['content'] | trim }} [/INST]{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_teacher_dir: Path, tiny_student_dir: Path, english_documents: list[str]):
    """Settings, corpus and aligner of a pair with templates, on conversations of two and four messages."""
    root = tmp_path_factory.mktemp("chat")
    models = {}
    for role, source, template in (
        ("teacher", tiny_teacher_dir, TEACHER),
        ("student", tiny_student_dir, STUDENT),
    ):
        directory = shutil.copytree(source, root / role)
        (directory / "chat_template.jinja").write_text(template)
        models[role] = {"path": str(directory)}
    lines = []
    for text in english_documents:
        parts = [text[begin : begin + 200] for begin in range(0, len(text), 200)]
        for count in (2, 4):
            roles = ("user", "assistant") * count
            messages = [{"role": r, "content": p} for r, p in zip(roles, parts[:count], strict=False)]
            if len(messages) == count:
                lines.append(json.dumps({"talk": messages}) + "\n")
            parts = parts[count:]
    (root / "talks.jsonl").write_text("".join(lines))
    settings = parse_settings(
        {
            "corpus": {
                "sources": [{"kind": "file", "path": str(root / "talks.jsonl"), "messages_column": "talk"}],
                "held_out_share": 0.2,
                "contract": {"max_leaking_documents_share": 1.0},
            },
            "models": models | {"device": "cpu"},
            "training": {
                "max_length": 128,
                "batch_size": 4,
                "evaluations": 2,
                "max_steps": 12,
                "learning_rate": 2e-2,
            },
        }
    )
    tokenizers = {role: load_tokenizer(getattr(settings.models, role), role) for role in models}
    rows = {
        f"num_{role}_rows": configured_output_rows(getattr(settings.models, role), role) for role in models
    }
    aligner = build_aligner("prefix", tokenizers["teacher"], tokenizers["student"], **rows)
    return settings, load_corpus(settings.corpus, tokenizers), aligner, tokenizers


def test_a_student_learns_from_conversations(job, tmp_path: Path) -> None:
    settings, corpus, aligner, tokenizers = job
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    assert read_corpus(job_dir / "corpus").train.to_list() == corpus.train.to_list()
    result = run_job(job_dir, on_estimate=lambda _: None)
    lines = [line for line in read_metrics(job_dir / "metrics.jsonl") if "loss" in line["metrics"]]
    losses = [line["metrics"]["cross_entropy"] for line in lines]
    assert losses[-1] < losses[0] - 0.2
    # Answers alone enter the loss, all of them, and nearly all of their tokens learn from the teacher.
    windows = make_windows(PairEncoder(*tokenizers.values()), corpus.train, 128)
    order = list(LengthBatchedSampler(windows.lengths, 4, settings.seed))
    expected = [sum(windows[i].trained.sum() for i in order[4 * step : 4 * step + 4]) for step in range(12)]
    assert [line["tokens"] for line in lines] == np.cumsum(expected).tolist()
    shares = [line["metrics"]["target_share"] for line in lines]
    assert 0.8 < min(shares) < 1.0  # the first word of an answer straddles its edge
    assert result.metrics["held_out/bits_per_byte"] > 0
    saved = load_tokenizer(
        settings.models.student.model_copy(update={"path": str(result.student_dir)}), "student"
    )
    assert saved.chat_template == STUDENT


def test_a_template_that_is_gone_is_one_line(job, tmp_path: Path) -> None:
    settings, corpus, aligner, _ = job
    bare = Path(shutil.copytree(settings.models.student.path, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    student = settings.models.student.model_copy(update={"path": str(bare)})
    models = settings.models.model_copy(update={"student": student})
    settings = settings.model_copy(update={"models": models})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    with pytest.raises(
        AlignmentError, match=r"models\.student\.path = .*bare: its tokenizer has no chat template"
    ):
        run_job(job_dir, on_estimate=lambda _: None)

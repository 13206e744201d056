"""lm-eval leaves no trace: no noise, no files, no random state, no logger, and its warnings come through."""

from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distillation.config import EvaluationSettings, ModelReference
from distillation.evaluation.tasks import measure_tasks, prepared_tasks
from distillation.evaluation.undisturbed import undisturbed
from distillation.models.load import load_model, load_tokenizer

SET_ON_IMPORT = {"HF_XET_HIGH_PERFORMANCE", "KMP_DUPLICATE_LIB_OK"}
"""Variables that lm-eval, and scikit-learn below it, set when they are first imported."""


def test_nothing_is_left_behind(tiny_student_dir, english_documents, tmp_path, monkeypatch, capfd):
    reference = ModelReference(path=str(tiny_student_dir))
    model = load_model(reference, "student", dtype="float32")
    tokenizer = load_tokenizer(reference, "student")

    capfd.readouterr()
    monkeypatch.chdir(tmp_path)
    model.train()
    pad, tokens = tokenizer.pad_token_id, len(tokenizer)
    library = logging.getLogger("lm_eval")
    before = library.level, list(library.handlers), library.propagate
    environment = dict(os.environ)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with prepared_tasks(english_documents, EvaluationSettings(task_limit=8)) as tasks:
        folder = Path(tasks.loaded["cloze"]["tasks"]["cloze"].config.dataset_kwargs["cache_dir"]).parent
        assert folder.is_dir()
        measure_tasks(tasks, model, tokenizer, tokens_per_batch=1024)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert model.training
    assert (tokenizer.pad_token_id, len(tokenizer)) == (pad, tokens)
    assert (library.level, list(library.handlers), library.propagate) == before
    assert {name for name in os.environ if environment.get(name) != os.environ[name]} <= SET_ON_IMPORT
    assert not folder.exists()
    assert not list(tmp_path.iterdir())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_warnings_are_passed_on_once_and_an_error_changes_nothing(caplog, capfd):
    state = random.getstate()
    drawn = []

    def fail() -> None:
        with undisturbed():
            for text in ("odd answer", "odd answer", "`pretrained` is no name"):
                logging.getLogger("lm_eval.api.task").warning(text)
            logging.getLogger("lm_eval").info("a step")
            print("a bar", file=sys.stderr)
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
            raise KeyError("task")

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
    assert drawn[0] == drawn[1]
    assert random.getstate() == state
    assert [record.getMessage() for record in caplog.records] == ["lm-eval: odd answer"] * 2
    assert capfd.readouterr().err == ""

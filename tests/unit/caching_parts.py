"""A corpus, an aligner and settings for teacher caches, and the loss by a cache beside the live teacher's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training_settings import make_settings

from distillation.aligners.build import build_aligner
from distillation.config import CacheSettings, ObjectiveSettings, Settings, TermWeights
from distillation.corpus.loading import load_corpus
from distillation.corpus.windows import WindowCollator, make_windows
from distillation.losses.objective import DistillationObjective
from distillation.models.load import load_model, load_pair, load_tokenizer, start_token_id
from distillation.teachers.cache.fill import fill_cache, prepare_cache
from distillation.teachers.cache.store import CacheReader, TeacherCache
from distillation.teachers.cache.teacher import CachedTeacher
from distillation.teachers.cache.windows import CachedCollator
from distillation.teachers.live import LiveTeacher
from distillation.tokenizers.pairs import PairEncoder
from distillation.training.build_objective import _tables
from distillation.training.trainer import distilling


def make_parts(teacher: Path, student: Path, path: Path, documents: Sequence[str]) -> Any:
    """(settings, corpus, aligner) of a pair, with the documents written to `path`."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    settings = make_settings(teacher, student, path, cache={"windows_per_shard": 16})
    tokenizers, rows = load_pair(settings.models)
    aligner = build_aligner("prefix", *tokenizers.values(), **rows)
    return settings, load_corpus(settings.corpus, tokenizers), aligner


def with_cache(settings: Settings, **values: Any) -> Settings:
    terms = values.pop("terms", None)
    update: dict[str, Any] = {"cache": CacheSettings(**({"windows_per_shard": 16} | values))}
    if terms is not None:
        update["objective"] = ObjectiveSettings(terms=terms)
    return settings.model_copy(update=update)


def fill(parts: Any, folder: Path, **values: Any) -> TeacherCache:
    settings, corpus, aligner = parts
    changed = with_cache(settings, **values)
    request = prepare_cache(corpus, settings=changed, aligner=aligner, output_dir=folder)
    return fill_cache(request, on_estimate=lambda line: None)


def losses(parts: Any, cache: TeacherCache, terms: TermWeights) -> tuple[Any, Any]:
    """(loss, gradient of the output weights, statistics) of a batch by the live teacher and by the cache."""
    settings, corpus, aligner = parts
    models = settings.models
    tokenizers = load_tokenizer(models.teacher, "teacher"), load_tokenizer(models.student, "student")
    pairs = make_windows(PairEncoder(*tokenizers), corpus.train, 64).pairs[:6]
    starts = start_token_id(tokenizers[1]), start_token_id(tokenizers[0])
    live = WindowCollator(*starts, aligner)
    cached = CachedCollator(live, CacheReader(cache.directory))
    objective = ObjectiveSettings(terms=terms)
    teacher = LiveTeacher(load_model(models.teacher, "teacher", dtype="float32"))
    job: Any = type("Job", (), {"objective": objective})
    found = []
    for collator, source in ((live, teacher), (cached, CachedTeacher(cache.settings))):
        student = load_model(models.student, "student", dtype="float32").requires_grad_(True)
        batch = collator(pairs)
        tables = _tables(job, tokenizers, aligner, "cpu")
        whole = DistillationObjective(objective, aligner, source, tables=tables)
        with distilling(student, whole):
            loss, statistics = student(**batch).values()
        loss.backward()
        named = dict(zip(whole.statistic_names, statistics.tolist(), strict=True))
        found.append((loss.item(), student.get_output_embeddings().weight.grad.clone(), named))
    return found[0], found[1]

"""Building aligners from two tokenizers, and reading them back from a directory.

A strategy is one entry of `ALIGNERS`: the class, and the function that makes its tables. Built aligners can
be kept in a folder by content (`cache_dir`, see `store.py`): the next call with the same two tokenizers maps
the tables into memory instead of making them.

Invariant: what `Aligner.save` wrote, `load_aligner` gives back to the bit, or refuses in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.aligners.base import FORMAT, SETTINGS_FILE, TABLES_FILE, Aligner, seal_of
from distillation.aligners.curriculum import STAGES_FILE, ScheduledAligner, load_schedule
from distillation.aligners.learned import AttentionAligner, LearnedAligner
from distillation.aligners.prefix import PrefixAligner, build_prefix_tables
from distillation.aligners.projection import ProjectionAligner, build_projection_tables
from distillation.aligners.shared import SharedAligner, build_shared_tables
from distillation.aligners.store import cache_entry, read_entry, write_entry
from distillation.aligners.truncate import (
    PadAligner,
    TruncateAligner,
    build_pad_tables,
    build_truncate_tables,
)
from distillation.errors import AlignmentError
from distillation.tokenizers.vocabularies import Vocabularies, pair_vocabularies

if TYPE_CHECKING:
    import numpy as np

BuildTables = Callable[[Vocabularies], "tuple[dict[str, np.ndarray], dict[str, Any]]"]
"""Returns the tables by name, and JSON-able facts about them for `Aligner.details`."""

ALIGNERS: dict[str, tuple[type[Aligner], BuildTables]] = {
    "prefix": (PrefixAligner, build_prefix_tables),
    "projection": (ProjectionAligner, build_projection_tables),
    "learned": (LearnedAligner, build_prefix_tables),
    "attention": (AttentionAligner, build_pad_tables),
    "shared": (SharedAligner, build_shared_tables),
    "truncate": (TruncateAligner, build_truncate_tables),
    "pad": (PadAligner, build_pad_tables),
}


def build_aligner(
    strategy: str,
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    *,
    num_teacher_rows: int,
    num_student_rows: int,
    cache_dir: str | Path | None = None,
) -> Aligner:
    """Build the aligner named `strategy` for two tokenizers.

    Args:
        strategy: a name of `ALIGNERS`.
        teacher_tokenizer: fast tokenizer of the teacher.
        student_tokenizer: fast tokenizer of the student.
        num_teacher_rows: U, rows of the teacher's output layer.
        num_student_rows: V, rows of the student's output layer.
        cache_dir: folder in which built aligners are kept and looked for; None keeps none.

    Raises:
        AlignmentError: unknown strategy, a tokenizer without known bytes, or an output layer that lacks
            rows of its tokens.
    """
    if strategy not in ALIGNERS:
        raise AlignmentError(f"alignment.strategy = {strategy!r}: use one of {', '.join(ALIGNERS)}")
    tokenizers = (teacher_tokenizer, student_tokenizer)
    sizes = {"num_teacher_rows": num_teacher_rows, "num_student_rows": num_student_rows}
    if cache_dir is None:
        return _from_vocabularies(strategy, pair_vocabularies(*tokenizers, **sizes))
    entry = cache_entry(cache_dir, strategy, *tokenizers, **sizes)
    aligner = read_entry(entry, load_aligner)
    if aligner is None:
        aligner = _from_vocabularies(strategy, pair_vocabularies(*tokenizers, **sizes))
        write_entry(entry, aligner)
    return aligner


def build_schedule(stages: Sequence[tuple[str, float]], *tokenizers: Any, **options: Any) -> Aligner:
    """Build the aligners of a schedule, `(strategy, share of the training at which it ends)` in order.

    Args and errors are those of `build_aligner`. A single stage is that aligner itself.
    """
    aligners = [build_aligner(strategy, *tokenizers, **options) for strategy, _ in stages]
    return aligners[0] if len(aligners) == 1 else ScheduledAligner(aligners, [end for _, end in stages])


def load_aligner(directory: str | Path) -> Aligner:
    """Read what `Aligner.save` wrote; the tables are mapped into memory, not copied.

    Raises:
        AlignmentError: the directory has no aligner, or it is damaged or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(directory)
    if (folder / STAGES_FILE).exists():
        return load_schedule(folder, load_aligner)
    again = "build the aligner again"
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        known = isinstance(settings, dict) and settings.get("name") in ALIGNERS
        if not known or settings.get("format") != FORMAT:
            raise AlignmentError(
                f"aligner directory {folder}: {SETTINGS_FILE} is not of format {FORMAT}; {again}"
            )
        with (folder / TABLES_FILE).open("rb") as stream:
            tables_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        seals = {SETTINGS_FILE: ("sha256", seal_of(settings)), TABLES_FILE: ("tables_sha256", tables_sha256)}
        for name, (field, seal) in seals.items():
            if settings.get(field) != seal:
                raise AlignmentError(f"aligner directory {folder}: {name} is not what was saved; {again}")
        tables = load_file(folder / TABLES_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise AlignmentError(f"aligner directory {folder}: {error}; {again}") from None
    kind, _ = ALIGNERS[settings["name"]]
    return kind(settings["num_teacher_rows"], settings["num_student_rows"], tables, settings["details"])


def _from_vocabularies(strategy: str, vocabularies: Vocabularies) -> Aligner:
    import torch

    kind, build_tables = ALIGNERS[strategy]
    arrays, facts = build_tables(vocabularies)
    details = {
        "teacher_digest": vocabularies.teacher.digest,
        "student_digest": vocabularies.student.digest,
        "identical_tokenizers": vocabularies.identical,
    }
    tables = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return kind(vocabularies.num_teacher_rows, vocabularies.num_student_rows, tables, details | facts)

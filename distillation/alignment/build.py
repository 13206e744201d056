"""Building aligners from two tokenizers, and reading them back from a directory.

Invariant: what `Aligner.save` wrote, `load_aligner` gives back to the bit, or refuses in one line.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.alignment.base import FORMAT, SETTINGS_FILE, TABLES_FILE, Aligner
from distillation.alignment.by_id import PadAligner, TruncateAligner, build_truncate_tables
from distillation.alignment.prefix import PrefixAligner, build_prefix_tables
from distillation.alignment.shared import SharedAligner, build_shared_tables
from distillation.alignment.token_bytes import TokenBytes, same_tokenizer, tokens_as_bytes
from distillation.errors import AlignmentError

if TYPE_CHECKING:
    import numpy as np

ALIGNERS: dict[str, type[Aligner]] = {
    kind.name: kind for kind in (PrefixAligner, SharedAligner, TruncateAligner, PadAligner)
}
ROLES = ("eos", "bos", "pad", "unk")
"""In order of precedence, for a special token that has several."""


def build_aligner(
    strategy: str,
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    *,
    num_teacher_rows: int,
    num_student_rows: int,
) -> Aligner:
    """Build the aligner named `strategy` for two tokenizers.

    Args:
        strategy: `prefix`, `shared`, `truncate` or `pad`.
        teacher_tokenizer: fast tokenizer of the teacher.
        student_tokenizer: fast tokenizer of the student.
        num_teacher_rows: U, rows of the teacher's output layer.
        num_student_rows: V, rows of the student's output layer.

    Raises:
        AlignmentError: unknown strategy, a tokenizer without known bytes, or an output layer with fewer rows
            than its tokenizer has tokens.
    """
    if strategy not in ALIGNERS:
        raise AlignmentError(f"alignment.strategy = {strategy!r}: use one of {', '.join(ALIGNERS)}")
    teacher, student = tokens_as_bytes(teacher_tokenizer), tokens_as_bytes(student_tokenizer)
    _check_rows("teacher", teacher, num_teacher_rows)
    _check_rows("student", student, num_student_rows)
    identical = same_tokenizer(teacher_tokenizer, student_tokenizer)
    details: dict[str, Any] = {
        "teacher_digest": teacher.digest,
        "student_digest": student.digest,
        "identical_tokenizers": identical,
    }
    sizes = {"num_teacher_rows": num_teacher_rows, "num_student_rows": num_student_rows}
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    if strategy == "prefix":
        specials = map_specials(teacher, student)
        details["special_tokens"] = {str(key): value for key, value in sorted(specials.items())}
        arrays, facts = build_prefix_tables(
            teacher, student, student_tokenizer, specials, identical=identical, **sizes
        )
    elif strategy == "shared":
        specials = map_specials(teacher, student, by_role=False)
        arrays, facts = build_shared_tables(teacher, student, specials, identical=identical, **sizes)
    elif strategy == "truncate":
        arrays = build_truncate_tables(**sizes)

    import torch

    tables = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return ALIGNERS[strategy](num_teacher_rows, num_student_rows, tables, details | facts)


def map_specials(teacher: TokenBytes, student: TokenBytes, *, by_role: bool = True) -> dict[int, int]:
    """Return teacher id -> student id of special tokens: of the same text, else of the same role."""
    mapping = {
        index: student.special_strings[text]
        for text, index in teacher.special_strings.items()
        if text in student.special_strings
    }
    if by_role:
        for role in ROLES:
            index = teacher.special_roles.get(role)
            if index is not None and index not in mapping and role in student.special_roles:
                mapping[index] = student.special_roles[role]
    return mapping


def load_aligner(directory: str | Path) -> Aligner:
    """Read what `Aligner.save` wrote.

    Raises:
        AlignmentError: the directory has no aligner, or it is damaged or of another format.
    """
    from safetensors.torch import load

    folder = Path(directory)
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        content = (folder / TABLES_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise AlignmentError(f"aligner directory {folder}: {error}; build the aligner again") from None
    if (
        not isinstance(settings, dict)
        or settings.get("format") != FORMAT
        or settings.get("name") not in ALIGNERS
    ):
        raise AlignmentError(
            f"aligner directory {folder}: {SETTINGS_FILE} is not of format {FORMAT}; build the aligner again"
        )
    if hashlib.sha256(content).hexdigest() != settings["tables_sha256"]:
        raise AlignmentError(
            f"aligner directory {folder}: {TABLES_FILE} is not what was saved; build the aligner again"
        )
    return ALIGNERS[settings["name"]](
        settings["num_teacher_rows"], settings["num_student_rows"], load(content), settings["details"]
    )


def _check_rows(role: str, tokens: TokenBytes, num_rows: int) -> None:
    if num_rows < len(tokens.table):
        raise AlignmentError(
            f"{role}: the output layer has {num_rows} rows but the tokenizer {len(tokens.table)} tokens; "
            "give the tokenizer that belongs to the model, or resize the model's embeddings"
        )

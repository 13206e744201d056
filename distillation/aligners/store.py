"""Built aligners kept in a folder by content.

An entry's name hashes all that its tables depend on: both tokenizers as they are in memory (not their files,
because tokens may have been added since), which of their tokens have a role, the sizes of both output
layers, the strategy, the code that builds and the version of `tokenizers`. Serialising a tokenizer of
150,000 tokens takes a tenth of a second, turning its tokens into bytes several times that, so the key never
asks for bytes.

Invariants: an entry that is not to the bit what was written is never used, it is built again with a warning;
several processes may share a folder; any entry may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.aligners.base import FORMAT, SETTINGS_FILE
from distillation.errors import AlignmentError
from distillation.sources import digest_of_sources
from distillation.tokenizers.token_bytes import backend_of
from distillation.tokenizers.vocabularies import ROLES

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner

logger = logging.getLogger(__name__)

KEPT_ALIGNERS = Path("outputs/aligners")
"""Where pipelines keep theirs; the folder may be deleted at any time."""
FIRST_KEY_OF_CONTENT = '"added_tokens":'
"""In a tokenizer's JSON, what stands before it only pads and cuts, and changes from call to call."""


def cache_entry(
    cache_dir: str | Path,
    strategy: str,
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    *,
    num_teacher_rows: int,
    num_student_rows: int,
) -> Path:
    """Return the folder of the aligner with these ingredients, whether it is there or not.

    Raises:
        AlignmentError: a tokenizer is not a fast one.
    """
    import tokenizers

    digest = hashlib.sha256()
    code = digest_of_sources("distillation.aligners.build")  # another rule makes other tables
    rest = [FORMAT, strategy, num_teacher_rows, num_student_rows, code, tokenizers.__version__]
    digest.update(json.dumps(rest).encode())
    for tokenizer in (teacher_tokenizer, student_tokenizer):
        digest.update(_tokenizer_digest(tokenizer))
    return Path(cache_dir) / f"{strategy}-{digest.hexdigest()[:32]}"


def read_entry(entry: Path, load: Callable[[Path], Aligner]) -> Aligner | None:
    """Return the aligner of `entry`; None if it has to be built, with a warning if it is damaged."""
    if not (entry / SETTINGS_FILE).exists():
        return None
    try:
        return load(entry)
    except AlignmentError as error:
        logger.warning("cached aligner is damaged and is built again: %s", error)
        return None


def write_entry(entry: Path, aligner: Aligner) -> None:
    """Keep `aligner` under `entry`; where that cannot be done, warn and go on without."""
    try:
        # Other processes that write this entry write the same bytes, each file by one rename.
        aligner.save(entry)
    except OSError as error:
        logger.warning("aligner cache %s cannot be written, so the aligner is not kept: %s", entry, error)


def _tokenizer_digest(tokenizer: Any) -> bytes:
    """Hash what `tokens_as_bytes` and encoding read of a tokenizer."""
    backend = backend_of(tokenizer)
    content = backend.to_str()
    # The special tokens that only the wrapper of transformers knows of.
    special = sorted(index for index in getattr(tokenizer, "all_special_ids", ()) if index is not None)
    roles = [getattr(tokenizer, f"{role}_token_id", None) for role in ROLES]
    digest = hashlib.sha256(json.dumps([special, roles, backend.encode_special_tokens]).encode())
    digest.update(content[content.index(FIRST_KEY_OF_CONTENT) :].encode("utf-8"))
    return digest.digest()

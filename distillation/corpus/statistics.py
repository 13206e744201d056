"""Figures about documents that the data contract judges: one row a document, never the text itself.

Great Expectations works on data frames. Giving it lengths, flags and shares instead of megabytes of strings
keeps a validation at a second, and the page free of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.corpus.documents import Document
from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.token_bytes import backend_of, unknown_ids

if TYPE_CHECKING:
    import pandas as pd

TRAIN, HELD_OUT = "train", "held_out"
_SAMPLE_DOCUMENTS = 200
_SAMPLE_CHARACTERS = 2_000


@dataclass(frozen=True)
class CorpusStatistics:
    """What the contract looks at."""

    documents: pd.DataFrame
    """One row a document: part, num_characters, has_text, is_valid_utf8, num_nuls; held-out documents also
    is_in_train and leaked_share (share of their long n-grams that stand in training documents)."""
    duplicate_share: float
    """Share of the source's documents that repeated another one and were dropped."""
    unknown_shares: dict[str, float] = field(default_factory=dict)
    """For each tokenizer, the share of its tokens on a sample that stand for text it cannot spell."""
    left_out_shares: dict[str, float] = field(default_factory=dict)
    """Share of the `documents`, of the bytes of the `files`, and of the `held_out` documents of the source
    that could not be used."""


def measure_documents(
    train: Sequence[Document],
    held_out: Sequence[Document],
    leaked_shares: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return one row a document; flags are 0 and 1, because Great Expectations cannot write numpy's bool.

    Args:
        train: accepted training documents.
        held_out: accepted held-out documents.
        leaked_shares: float64, one a held-out document.
    """
    import pandas as pd

    parts = [TRAIN] * len(train) + [HELD_OUT] * len(held_out)
    documents = [*train, *held_out]
    train_ids = {document.document_id for document in train}
    of_held_out = slice(len(train), len(train) + len(held_out))
    is_in_train, shares = np.full((2, len(documents)), np.nan)
    is_in_train[of_held_out] = [document.document_id in train_ids for document in held_out]
    if leaked_shares is not None:
        shares[of_held_out] = leaked_shares
    return pd.DataFrame(
        {
            "part": parts,
            "num_characters": [len(document.text) for document in documents],
            "has_text": [int(bool(document.text.strip())) for document in documents],
            "is_valid_utf8": [int(_is_valid_utf8(document.text)) for document in documents],
            "num_nuls": [document.text.count("\0") for document in documents],
            "is_in_train": is_in_train,
            "leaked_share": shares,
        }
    )


def _is_valid_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the share of tokens that stand for text which the vocabulary cannot spell.

    Counted are unknown tokens and bytes that a byte-level vocabulary lacks (its tokenizer drops them without
    a token), on an even sample of the texts. A byte `<0xNN>` spells its text: Llama 2 and its heirs write
    every line end so. A document's own `<unk>` is text.
    """
    step = max(1, len(texts) // _SAMPLE_DOCUMENTS)
    sample = [text[:_SAMPLE_CHARACTERS] for text in texts[::step][:_SAMPLE_DOCUMENTS]]
    if not sample:
        return 0.0
    bad_ids = {*unknown_ids(backend_of(tokenizer)), tokenizer.unk_token_id}
    encoded = PlainText(tokenizer).ids(sample)
    num_dropped = _num_dropped_bytes(tokenizer, sample, encoded)
    num_bad = sum(index in bad_ids for ids in encoded for index in ids)
    return (num_bad + num_dropped) / max(sum(map(len, encoded)) + num_dropped, 1)


def _num_dropped_bytes(tokenizer: Any, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> int:
    """Count bytes for which a byte-level tokenizer gave no token; 0 for other families."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or "ByteLevel" not in repr(backend.decoder):
        return 0
    added = {index: len(str(token).encode()) for index, token in tokenizer.added_tokens_decoder.items()}
    num_dropped = 0
    for text, ids in zip(texts, encoded, strict=True):
        normalised = backend.normalizer.normalize_str(text) if backend.normalizer else text
        # In these vocabularies one character of a token stands for one byte.
        names = tokenizer.convert_ids_to_tokens(ids)
        num_written = sum(added.get(index, len(name)) for index, name in zip(ids, names, strict=True))
        num_dropped += max(0, len(normalised.encode()) - num_written)
    return num_dropped


def measure_unknown_shares(tokenizers: Mapping[str, Any], documents: Sequence[Document]) -> dict[str, float]:
    """Return the share of unknown tokens of each tokenizer, by its name."""
    texts = [document.text for document in documents]
    return {name: unknown_share(tokenizer, texts) for name, tokenizer in tokenizers.items()}

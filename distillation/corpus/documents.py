"""Documents and the split that never moves one.

A document belongs to the held-out part by a hash of its own text alone. Adding, removing or reordering other
documents therefore never moves one across, and a teacher that was trained on the training part elsewhere has
not seen the held-out part here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Document:
    """One text and where it comes from."""

    text: str
    origin: str
    """Source-relative name, for example `torch/nn/modules/linear.py` or `train.jsonl:17`."""

    @cached_property
    def document_id(self) -> str:
        """SHA-256 of the text in UTF-8, in hexadecimal; lone surrogates are hashed as they are."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def is_held_out(document_id: str, share: float) -> bool:
    """Tell whether the document falls into the held-out `share` of the hash space."""
    return int(document_id[:13], 16) < share * 16**13


def is_validation(document_id: str) -> bool:
    """Tell whether a *held-out* document belongs to the quarter that training may look at.

    Training picks its best checkpoint on this quarter; every published figure is measured on the other three,
    so that choosing does not flatter the chosen. Other digits of the hash than `is_held_out` uses decide.
    """
    return int(document_id[-2:], 16) < 64

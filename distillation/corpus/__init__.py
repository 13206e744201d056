"""Text to distil on: sources in order, the split, the data contract, and a corpus on disk."""

from distillation.corpus.checks import ContractCheck, ContractResult
from distillation.corpus.corpus import Corpus, CorpusReport, read_corpus, save_corpus
from distillation.corpus.documents import Document, is_held_out
from distillation.corpus.loading import load_corpus

__all__ = [
    "ContractCheck",
    "ContractResult",
    "Corpus",
    "CorpusReport",
    "Document",
    "is_held_out",
    "load_corpus",
    "read_corpus",
    "save_corpus",
]

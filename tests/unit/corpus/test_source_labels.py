"""Where documents come from, in few words, in the order of the texts."""

from __future__ import annotations

import json
from random import Random

from distillation.config import CorpusSettings
from distillation.corpus.loading import load_corpus
from distillation.corpus.sources.documentation import _language_reference, _python_files
from distillation.corpus.sources.labels import source_labels


def test_the_parts_of_the_documentation():
    origins = ["torch/nn/modules/linear.py", "json/encoder.py", "bz2.py", "pydoc_data/lambda"]
    assert source_labels(origins, "documentation") == [
        "package docstrings",
        "standard library docstrings",
        "standard library docstrings",
        "language reference",
    ]


def test_every_part_occurs_in_this_installation():
    origins = [*_language_reference(), *(name for name, _ in _python_files())]
    assert len(set(source_labels(origins, "documentation"))) == 3


def test_files_are_named_by_folder_by_name_or_by_suffix():
    assert source_labels(["a.jsonl:0", "a.jsonl:1", "books/b.txt:0"], "file") == [
        "a.jsonl",
        "a.jsonl",
        "books",
    ]
    many = [f"file {place}.txt:0" for place in range(20)]
    assert set(source_labels(many, "file")) == {".txt files"}
    assert set(source_labels([*many, "books/b.txt:0"], "file")) == {".txt files", "folders"}


def test_a_dataset_is_named_with_its_split():
    assert source_labels(["Salesforce/wikitext/train:12"], "hub") == ["Salesforce/wikitext/train"]


def test_a_corpus_labels_its_test_texts_in_their_order(tmp_path):
    random = Random(0)
    for name in ("novels", "letters"):
        words = [" ".join(f"w{random.randrange(5000)}" for _ in range(60)) for _ in range(200)]
        lines = [json.dumps({"text": f"{name} {text}"}) for text in words]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    settings = CorpusSettings(sources=[{"kind": "file", "path": str(tmp_path)}], held_out_share=0.2)
    corpus = load_corpus(settings, {})
    texts, sources = corpus.test_texts, corpus.test_sources
    assert len(texts) == len(sources) > 20
    assert all(source == f"{text.split()[0]}.jsonl" for text, source in zip(texts, sources, strict=True))
    assert set(sources) == {"novels.jsonl", "letters.jsonl"}

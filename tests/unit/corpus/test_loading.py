"""From sources to a corpus: order, fallback, limits, split, cleaning, and the directory on disk."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path

import pytest

from distillation.config import ContractSettings, CorpusSettings
from distillation.corpus.corpus import read_corpus, save_corpus
from distillation.corpus.documents import Document, is_held_out
from distillation.corpus.loading import load_corpus
from distillation.errors import CorpusError

SHARE = 0.1


def _texts(count: int, seed: int = 0, num_words: int = 60) -> list[str]:
    generator = random.Random(seed)
    words = [f"w{i}" for i in range(5000)]
    return [" ".join(generator.choices(words, k=num_words)) for _ in range(count)]


def _write(path: Path, texts: list[str]) -> dict[str, str]:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"kind": "file", "path": str(path)}


def _settings(*sources, **changes) -> CorpusSettings:
    return CorpusSettings(sources=sources, **({"held_out_share": SHARE} | changes))


def test_split_follows_content_alone(tmp_path):
    texts = _texts(200)
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts)), {})
    assert corpus.report.num_train_documents + corpus.report.num_held_out_documents == 200
    assert all(is_held_out(document_id, SHARE) for document_id in corpus.held_out["document_id"])
    assert not any(is_held_out(document_id, SHARE) for document_id in corpus.train["document_id"])
    more = load_corpus(_settings(_write(tmp_path / "b.jsonl", _texts(100, seed=1) + texts[::-1])), {})
    assert set(corpus.held_out["text"]) <= set(more.held_out["text"])
    assert set(corpus.train["text"]) <= set(more.train["text"])
    assert corpus.train.column_names == ["text", "document_id", "origin"]
    assert Document(corpus.train[0]["text"], "").document_id == corpus.train[0]["document_id"]


def test_same_source_same_corpus_other_order_other_fingerprint(tmp_path):
    texts = _texts(60)
    first = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts)), {})
    again = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts)), {})
    assert first.report == again.report
    turned = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts[::-1])), {})
    assert turned.report.train_fingerprint != first.report.train_fingerprint


def test_documents_are_cleaned_and_counted(tmp_path):
    texts = _texts(60)
    dirty = [*texts, texts[0].replace(" ", "\r\n"), "too short", texts[1], texts[2]]
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", dirty)), {})
    report = corpus.report
    assert report.num_documents_read == 64
    assert report.num_short_dropped == 1
    assert report.num_duplicates_dropped == 2
    assert report.duplicate_share == pytest.approx(2 / 63)
    every = corpus.train["text"][:] + corpus.held_out["text"][:]
    assert texts[0].replace(" ", "\n") in every
    assert sum(len(text.encode()) for text in corpus.train["text"]) == report.train_bytes


def test_limits_are_kept_and_neither_part_starves_the_other(tmp_path):
    source = _write(tmp_path / "a.jsonl", _texts(600))
    size = len(_texts(1)[0])
    # Training is full after about twenty documents, when two are held out: reading must go on.
    corpus = load_corpus(_settings(source, max_train_bytes=20 * size + 50, max_held_out_bytes=30 * size), {})
    assert 17 * size < corpus.report.train_bytes <= 20 * size + 50
    assert 26 * size < corpus.report.held_out_bytes <= 30 * size
    # And the other way round.
    corpus = load_corpus(_settings(source, max_train_bytes=300 * size, max_held_out_bytes=2 * size + 50), {})
    assert 260 * size < corpus.report.train_bytes <= 300 * size
    assert corpus.report.held_out_bytes <= 2 * size + 50
    assert corpus.report.num_documents_read < 600


def test_one_long_document_neither_ends_a_part_nor_is_cut(tmp_path):
    texts = _texts(100)
    limit = 20_000
    # Too long for what is left of the part, and too long for the whole part.
    for num_pieces in (55, 200):
        book = " ".join(_texts(num_pieces, seed=3))
        source = _write(tmp_path / "a.jsonl", [*texts[:20], book, *texts[20:]])
        assert not is_held_out(Document(book, "").document_id, SHARE)
        corpus = load_corpus(_settings(source, max_train_bytes=limit), {})
        assert 0.9 * limit < corpus.report.train_bytes <= limit
        assert set(corpus.train["text"]) <= set(texts)


def test_a_document_larger_than_its_part_is_cut_only_if_it_is_alone(tmp_path):
    text = "ü" * 5000
    source = _write(tmp_path / "a.jsonl", [text, *(" ".join(["é" * 4000, t]) for t in _texts(3))])
    contract = ContractSettings(min_documents=1, min_held_out_documents=1, max_unknown_share=1.0)
    with pytest.raises(CorpusError, match="num_held_out_documents is 0, must be >= 1"):
        load_corpus(_settings(source, max_train_bytes=1001, held_out_share=1e-9, contract=contract), {})
    from distillation.corpus.loading import _Part

    part = _Part(1001)
    part.add(Document(text, "long"))
    assert [document.text for document in part.finish()] == ["ü" * 500]
    part.add(Document("short", "short"))
    assert [document.text for document in part.finish()] == ["short"]


def test_contaminated_training_documents_are_dropped(tmp_path):
    texts = _texts(80, num_words=100)
    held_out = next(text for text in texts if is_held_out(Document(text, "").document_id, SHARE))
    copies = [f"{extra} {held_out} {extra}" for extra in _texts(12, seed=9, num_words=5)]
    copies = [text for text in copies if not is_held_out(Document(text, "").document_id, SHARE)]
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts + copies)), {})
    assert corpus.report.num_contaminated_dropped == len(copies) > 5
    assert not set(copies) & set(corpus.train["text"])
    assert corpus.report.leaked_share < 0.01


def test_sources_are_tried_in_order_and_reasons_are_kept(tmp_path, caplog):
    missing = {"kind": "file", "path": str(tmp_path / "missing")}
    few = _write(tmp_path / "few.jsonl", _texts(5))
    nul = _write(tmp_path / "nul.jsonl", [text + "\0" for text in _texts(80)])
    surrogate = _write(tmp_path / "surrogate.jsonl", [*_texts(80), *(_texts(10, seed=2) + ["\ud800"] * 20)])
    good = _write(tmp_path / "good.jsonl", _texts(80))
    unused = _write(tmp_path / "unused.jsonl", _texts(80, seed=5))
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(_settings(missing, few, nul, surrogate, good, unused), {})
    report = corpus.report
    assert report.source == f"file {good['path']!r}"
    patterns = (
        "no such file",
        "num_train_documents",
        "nul.jsonl line 1: holds a NUL character",
        "left_out_documents_share",
    )
    assert len(report.fallback_reasons) == len(patterns)
    for index, (reason, pattern) in enumerate(zip(report.fallback_reasons, patterns, strict=True)):
        assert reason.startswith(f"corpus.sources[{index}] = file ")
        assert pattern in reason
        assert "\n" not in reason
        assert sum(reason in record.message for record in caplog.records) == 1
    assert all(check.success for check in report.checks)


def test_every_source_failing_lists_all_reasons_in_one_line(tmp_path):
    first = {"kind": "file", "path": str(tmp_path / "missing")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("")
    second = {"kind": "file", "path": str(tmp_path / "empty")}
    third = {"kind": "file", "path": str(tmp_path / "blank.txt")}
    short = _write(tmp_path / "short.jsonl", ["ab", "cd", "ef"])
    with pytest.raises(CorpusError) as raised:
        load_corpus(_settings(first, second, third, short), {})
    message = str(raised.value)
    assert "\n" not in message
    for index in range(4):
        assert f"corpus.sources[{index}] = file" in message
    for part in ("no such file", "holds no .txt", "3 of 3 documents have fewer than"):
        assert part in message


def test_what_cannot_be_used_is_told_and_costs_nothing_else(tmp_path, caplog):
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = _texts(80)
    _write(folder / "a.jsonl", [*texts[:40], texts[0] + "\0", *texts[40:]])
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "c.csv").write_text("text\n")
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(_settings({"kind": "file", "path": str(folder)}), {})
    alone = load_corpus(_settings(_write(tmp_path / "a.jsonl", texts)), {})
    assert corpus.report.train_fingerprint == alone.report.train_fingerprint
    lines = [one.describe() for one in corpus.report.left_out]
    assert lines[0] == "1 file: suffix '.csv' is not read (c.csv)"
    assert lines[1] == "1 document: holds a NUL character (a.jsonl line 41)"
    assert lines[2].startswith("1 document: invalid UTF-8")
    assert lines[2].endswith("(b.txt line 1)")
    assert all(line in caplog.text for line in lines)
    assert len(corpus.report.warnings) == 3
    assert {check.name for check in corpus.report.checks} >= {
        "left_out_documents_share",
        "left_out_files_share",
    }
    with pytest.raises(CorpusError, match=r"b\.txt line 1: invalid UTF-8"):
        load_corpus(_settings({"kind": "file", "path": str(folder / "b.txt")}), {})


@pytest.mark.parametrize("what", ["documents", "files"])
def test_a_share_above_the_setting_refuses_and_names_the_first(tmp_path, what):
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = _texts(80)
    bad = [text + "\0" for text in _texts(20, seed=4)] if what == "documents" else []
    _write(folder / "a.jsonl", [*bad, *texts])
    if what == "files":
        (folder / "LICENSE.html").write_text("x" * 9000)
    source = {"kind": "file", "path": str(folder)}
    with pytest.raises(CorpusError) as raised:
        load_corpus(_settings(source), {})
    message = str(raised.value)
    assert f"left_out_{what}_share is 0." in message
    assert "must be <= 0.1 (corpus.contract.max_left_out_share)" in message
    assert ("a.jsonl line 1" if what == "documents" else "'.html' is not read (LICENSE.html)") in message
    assert "documentation" not in message
    allowed = ContractSettings(max_left_out_share=0.3)
    assert load_corpus(_settings(source, contract=allowed), {}).report.num_train_documents > 60


def test_what_settings_sort_out_is_told_and_refuses_nothing(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = _texts(300)
    _write(folder / "a.jsonl", ["too short", *texts[:200], texts[0]])
    _write(folder / "b.jsonl", texts[200:])
    size = len(texts[0])
    limits = {"max_train_bytes": 60 * size, "max_held_out_bytes": 4 * size}
    report = load_corpus(_settings({"kind": "file", "path": str(folder)}, **limits), {}).report
    assert not report.is_read_to_end
    assert report.warnings == ()
    causes = {one.cause: one.count for one in report.left_out}
    assert causes["shorter than corpus.min_document_characters = 200"] == 1
    assert causes["not needed, as corpus.max_train_bytes and corpus.max_held_out_bytes were reached"] == 1
    used = report.num_train_documents + report.num_held_out_documents
    assert sum(causes.values()) - 1 + used == report.num_documents_read
    assert "60" not in report.sentence or "unread" in report.sentence
    whole = load_corpus(_settings({"kind": "file", "path": str(folder)}), {}).report
    assert whole.is_read_to_end
    assert {one.cause.split(" ")[0] for one in whole.left_out} == {"shorter", "repeats"}


def test_documentation_is_advised_only_in_place_of_the_hub(tmp_path):
    missing = {"kind": "file", "path": str(tmp_path / "missing")}
    with pytest.raises(CorpusError) as raised:
        load_corpus(_settings(missing), {})
    assert str(raised.value).endswith("give an existing one")
    with pytest.raises(CorpusError, match="name documentation as the last source"):
        load_corpus(_settings({"kind": "hub", "path": "a/b"}, hub_timeout=0.5), {})


def test_unknown_tokens_refuse_a_source(tmp_path, shared_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / "smollm")
    strange = _write(tmp_path / "a.jsonl", [text.replace(" ", "\x04") for text in _texts(80)])
    good = _write(tmp_path / "b.jsonl", _texts(80))
    corpus = load_corpus(_settings(strange, good), {"student": tokenizer})
    assert "unknown_share_student" in corpus.report.fallback_reasons[0]
    assert corpus.report.unknown_shares == {"student": 0.0}


def test_real_text_and_tokenizers(shared_dir):
    source = {"kind": "file", "path": str(shared_dir / "corpora" / "wikitext2-valid.txt")}
    corpus = load_corpus(_settings(source, max_train_bytes=500_000), {})
    assert corpus.report.num_train_documents > 20
    assert 0.9 * 500_000 < corpus.report.train_bytes <= 500_000
    assert "passed" in corpus.contract_page


def test_saved_corpus_reads_back(tmp_path):
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", _texts(60))), {})
    directory = tmp_path / "deep" / "corpus"
    save_corpus(corpus, directory)
    loaded = read_corpus(directory)
    assert loaded.report == corpus.report
    assert loaded.train.to_list() == corpus.train.to_list()
    assert loaded.held_out.to_list() == corpus.held_out.to_list()
    assert loaded.contract_page == corpus.contract_page
    # A second save replaces the first and leaves nothing beside it.
    other = load_corpus(_settings(_write(tmp_path / "a.jsonl", _texts(60, seed=8))), {})
    save_corpus(other, directory)
    assert read_corpus(directory).report == other.report
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]


def test_failed_save_keeps_what_was_there(tmp_path, monkeypatch):
    from distillation.corpus import corpus as module

    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", _texts(60))), {})
    directory = tmp_path / "saved" / "corpus"
    save_corpus(corpus, directory)
    with monkeypatch.context() as patch:
        patch.setattr(module, "PAGE_FILE", "no/such/folder.html")
        with pytest.raises(OSError):
            save_corpus(corpus, directory)
    assert read_corpus(directory).report == corpus.report
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]


def test_damage_is_noticed(tmp_path):
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", _texts(60))), {})
    save_corpus(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "train.parquet").write_bytes(
        (tmp_path / "corpus" / "held_out.parquet").read_bytes()
    )
    with pytest.raises(CorpusError, match="train documents are not those of its report"):
        read_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "report.json").write_text("{")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path / "corpus")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path / "nowhere")


def test_a_folder_whose_name_is_no_text_keeps_a_corpus(tmp_path):
    """So every name with an accent looks where the locale is C: Arrow itself would refuse it."""
    corpus = load_corpus(_settings(_write(tmp_path / "a.jsonl", _texts(60))), {})
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    save_corpus(corpus, folder)
    assert read_corpus(folder).train["text"] == corpus.train["text"]
    (folder / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"caf\\xe9 cannot be read \(train\.parquet: .*; remove it"):
        read_corpus(folder)

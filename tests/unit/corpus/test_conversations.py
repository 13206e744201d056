"""Corpora of conversations: what is read, the split, what counts as text, the directory, refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillation.config import CorpusSettings, FileSource, parse_settings
from distillation.corpus.corpus import read_corpus, save_corpus
from distillation.corpus.documents import conversation_of, is_held_out
from distillation.corpus.left_out import Tally
from distillation.corpus.loading import load_corpus
from distillation.corpus.sources.files import iterate_files
from distillation.errors import CorpusError, SettingsError

SYSTEM = "You are a careful assistant who answers in one short sentence and never makes anything up. " * 3


def _talks(count: int, system: str | None = SYSTEM) -> list[list[dict[str, str]]]:
    generator = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    talks = []
    for _ in range(count):
        question, answer = (" ".join(generator.choices(words, k=25)) for _ in range(2))
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        talks.append(messages if system is None else [{"role": "system", "content": system}, *messages])
    return talks


def _write(path: Path, talks: list, column: str = "messages") -> dict[str, str]:
    path.write_text("".join(json.dumps({column: talk, "id": 1}) + "\n" for talk in talks))
    return {"kind": "file", "path": str(path), "messages_column": column}


def test_rows_become_conversations(tmp_path: Path) -> None:
    talks = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "a\r\nb"},
         {"role": "assistant", "content": ""}, {"role": "assistant", "content": " c "}],
        None,
        [{"role": "user", "content": None, "tool_calls": None}],
    ]  # fmt: skip
    source = FileSource(**_write(tmp_path / "a.jsonl", talks, "talk"))
    first, *rest = iterate_files(source, Tally())
    assert first.text == "a\nb\n\n c "
    assert json.loads(first.messages) == [{**talks[0][0]}, {"role": "user", "content": "a\nb"}, *talks[0][2:]]
    assert first.origin == "a.jsonl:0"
    assert [(one.text, one.messages) for one in rest] == [
        ("", "[]"),
        ("", '[{"role": "user", "content": ""}]'),
    ]
    table = pa.table({"talk": talks[:2], "other": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    again = list(iterate_files(source.model_copy(update={"path": str(tmp_path / "a.parquet")}), Tally()))
    assert [one.messages for one in again] == [first.messages, "[]"]


def test_a_corpus_of_conversations(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.jsonl", [*_talks(120), *_talks(3)])
    corpus = load_corpus(CorpusSettings(sources=(source,), held_out_share=0.1), {})
    report = corpus.report
    assert report.source.endswith("a.jsonl' as conversations")
    # One system prompt in all conversations is neither a leak nor text that is measured.
    assert report.num_contaminated_dropped == 0
    assert report.num_train_documents + report.num_held_out_documents == 120
    assert report.num_duplicates_dropped == 3
    assert not any("careful assistant" in text for text in corpus.train["text"])
    assert sum(len(text.encode()) for text in corpus.train["text"]) == report.train_bytes
    for part, expected in ((corpus.train, False), (corpus.held_out, True)):
        assert part.column_names == ["text", "document_id", "origin", "messages"]
        for row in part:
            document = conversation_of(json.loads(row["messages"]), row["origin"])
            assert (document.text, document.document_id) == (row["text"], row["document_id"])
            assert is_held_out(row["document_id"], 0.1) is expected
    save_corpus(corpus, tmp_path / "corpus")
    loaded = read_corpus(tmp_path / "corpus")
    assert loaded.train.to_list() == corpus.train.to_list()
    assert loaded.report == report


def test_roles_and_system_prompts_count_for_the_fingerprint(tmp_path: Path) -> None:
    settings = {"held_out_share": 0.1}
    prints = []
    for system in (SYSTEM, SYSTEM + "!", None):
        source = _write(tmp_path / "a.jsonl", _talks(120, system))
        prints.append(load_corpus(CorpusSettings(sources=(source,), **settings), {}).report.train_fingerprint)
    assert len(set(prints)) == 3


def test_plain_text_is_kept_as_it_was(tmp_path: Path) -> None:
    """The hash of texts names models, caches and results: it must not move."""
    texts = [" ".join(m["content"] for m in talk) for talk in _talks(80, None)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "file", "path": str(tmp_path / "a.jsonl")}
    report = load_corpus(CorpusSettings(sources=(source,), held_out_share=0.1), {}).report
    assert (report.train_fingerprint, report.held_out_fingerprint) == ("4ec068198ea92f3d", "7cf5155677b14dff")


def test_one_conversation_larger_than_its_part_is_not_cut(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.jsonl", _talks(30))
    with pytest.raises(CorpusError, match="no training document among 30"):
        load_corpus(CorpusSettings(sources=(source,), max_train_bytes=100), {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a text", r"line 1: messages_column = 'messages' holds str, not a list of messages"),
        (["a"], "holds list, not a list of messages"),
        ([{"from": "human", "value": "a"}], "has from, value; give each a role and a content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a content that is list"),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}], "more than text"),
    ],
)
def test_what_is_no_conversation_is_one_line(tmp_path: Path, value: object, message: str) -> None:
    source = FileSource(**_write(tmp_path / "a.jsonl", [value]))
    with pytest.raises(CorpusError, match=message) as raised:
        list(iterate_files(source, Tally()))
    assert "\n" not in str(raised.value)


def test_a_wrong_column_is_one_line(tmp_path: Path) -> None:
    source = FileSource(**_write(tmp_path / "a.jsonl", _talks(1)) | {"messages_column": "chat"})
    with pytest.raises(
        CorpusError, match="no column messages_column = 'chat'; the columns are: id, messages"
    ):
        list(iterate_files(source, Tally()))
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(CorpusError, match=r"b\.txt: a txt file has no messages_column = 'chat'"):
        list(iterate_files(source.model_copy(update={"path": str(tmp_path / "b.txt")}), Tally()))


@pytest.mark.parametrize("kind", ["file", "hub"])
def test_two_columns_are_refused(kind: str) -> None:
    source = {"kind": kind, "path": "x", "text_column": "text", "messages_column": "messages"}
    with pytest.raises(
        SettingsError, match="text_column and messages_column are both set; name one"
    ) as raised:
        parse_settings({"corpus": {"sources": [source]}})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("roles", [("human", "gpt"), ("User", "Assistant")])
def test_conversations_without_answers_are_one_line_before_anything_is_trained(
    tmp_path: Path, roles: tuple[str, str]
) -> None:
    talks = [
        [{"role": role, "content": one["content"]} for role, one in zip(roles, talk, strict=True)]
        for talk in _talks(60, system=None)
    ]
    settings = CorpusSettings(sources=[_write(tmp_path / "a.jsonl", talks)])
    expected = f"no message has the role assistant; the roles are {', '.join(sorted(roles))}; rename"
    with pytest.raises(CorpusError, match=expected) as caught:
        load_corpus(settings, {})
    assert "\n" not in str(caught.value)

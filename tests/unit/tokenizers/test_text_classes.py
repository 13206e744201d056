"""Scripts and kinds of text: against the Unicode names, and against what real texts are known to be."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import tokenize
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillation.tokenizers.text_classes import (
    CODE,
    KINDS,
    LEAST_RUN,
    MATHS,
    PROSE,
    SCRIPTS,
    label_bytes,
    label_text,
    scripts_of,
)
from distillation.tokenizers.text_classes import line_kinds as kinds_of_lines

WORDS = {
    "LATIN": "Latin", "GREEK": "Greek", "CYRILLIC": "Cyrillic", "ARABIC": "Arabic", "HEBREW": "Hebrew",
    "CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul", "DEVANAGARI": "Devanagari",
    "THAI": "Thai", "ARMENIAN": "Armenian", "GEORGIAN": "Georgian", "BENGALI": "Bengali", "TAMIL": "Tamil",
    "TELUGU": "Telugu", "ETHIOPIC": "Ethiopic",
}  # fmt: skip
"""First word of a letter's Unicode name -> script."""


def test_every_letter_of_a_named_script_is_found() -> None:
    points = [point for point in range(0x30000) if unicodedata.category(chr(point)) in ("Lu", "Ll", "Lo")]
    found = scripts_of(np.array(points, dtype=np.uint32))
    wrong = 0
    for point, script in zip(points, found, strict=True):
        expected = WORDS.get(unicodedata.name(chr(point), "").split(" ")[0].split("-")[0])
        wrong += expected is not None and SCRIPTS[script] != expected
    # Left over: letters in blocks of other names (enclosed, historic, phonetic ones).
    assert wrong <= 0.006 * len(points), wrong


def test_digits_punctuation_and_symbols_have_no_script() -> None:
    signs = " 0129.,;:!?()[]{}<>=+-*/@#$%^&_|~`'\"\n\t«»—…“”€×÷∑√≤→█🙂🚀、。「」・！？０９"
    common = {SCRIPTS[script] for script in scripts_of(np.array(list(map(ord, signs)), dtype=np.uint32))}
    assert common == {"common"}


def kinds(text: str) -> list[str]:
    return [KINDS[kind] for kind in kinds_of_lines(text.split("\n"))]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("It is a truth universally acknowledged, that a single man", "prose"),
        ("“_You_ want to tell me, and I have no objection.”", "prose"),
        ("In 1999 about 20 people (or so) lived there; 7 left.", "prose"),
        ("Das ist ein Satz: mit Doppelpunkt, und mehr.", "prose"),
        ("日本語のテキスト(note)、そして", "prose"),
        ("def f(x):", "code"),
        ("    return x + 1", "code"),
        ("import os, sys", "code"),
        ("for (int i = 0; i < n; i++) {", "code"),
        ("self.value = other", "code"),
        ("#include <stdio.h>", "code"),
        ('<div class="a">', "code"),
        ("x += 1;", "code"),
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", "maths"),
        ("#### 72", "maths"),
        ("x^2 + y^2 = z^2", "maths"),
        (r"$\frac{a}{b} \leq 1$", "maths"),
        ("2 + 2 = 4", "maths"),
        ("∀ε ∃δ", "maths"),
        ("", "prose"),
    ],
)
def test_lines(text: str, kind: str) -> None:
    assert kinds(text) == [kind]


def test_neighbours_decide_on_lines_without_a_sign() -> None:
    program = "values = [\n    first,\n    second,\n]\n\nprint(values)\nfoo.bar(1)"
    assert set(kinds(program)) == {"code"}
    story = "He said:\nfirst,\nsecond,\nthird,\nand no more."
    assert set(kinds(story)) == {"prose"}


def test_runs_of_white_space_and_split_characters() -> None:
    text = "a  b\n\ncé漢"
    labels = label_bytes(text.encode())
    assert len(labels.script) == len(text.encode())
    tokens = ["a", " ", " b", "\n\n", "c", "é"]
    ends = np.cumsum([len(token.encode()) for token in tokens] + [1, 2])  # 漢 in two tokens
    script, kind = labels.of_tokens(np.concatenate([[0], ends[:-1]]), ends)
    assert [SCRIPTS[one] for one in script] == [
        "Latin",
        "common",
        "Latin",
        "common",
        "Latin",
        "Latin",
        "Han",
        "Han",
    ]
    assert [KINDS[one] for one in kind] == ["prose", "whitespace", "prose", "whitespace", *["prose"] * 4]
    touches = labels.touches_whitespace(np.concatenate([[0], ends[:-1]]), ends)
    assert touches.tolist() == [False, True, True, True, False, False, False, False]


@given(st.text(alphabet=" \n\tab1é漢🙂=(", max_size=30), st.data())
def test_labels_of_tokens_are_those_of_a_slow_walk(text: str, data: st.DataObject) -> None:
    labels = label_text(text)
    num_cuts = data.draw(st.integers(0, 6))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=num_cuts, max_size=num_cuts)))
    ends = [*dict.fromkeys(cut for cut in cuts if cut > 0), *([len(text)] if text else [])]
    ends = list(dict.fromkeys(ends))
    begins = [0, *ends[:-1]][: len(ends)]
    script, kind = labels.of_tokens(np.array(begins, dtype=int), np.array(ends, dtype=int))
    runs = [False] * len(text)
    for start in range(len(text)):
        stop = start
        while stop < len(text) and text[stop] in " \n\t":
            stop += 1
        if stop - start >= LEAST_RUN:
            runs[start:stop] = [True] * (stop - start)
    lines = kinds_of_lines(text.split("\n"))
    for index, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        letters = [letter for letter in text[begin:end] if letter.isalpha()]
        expected = "common" if not letters else "Han" if letters[0] == "漢" else "Latin"
        assert SCRIPTS[script[index]] == expected
        inked = [place for place in range(begin, end) if not runs[place]]
        line = lines[text[: inked[0]].count("\n")] if inked else KINDS.index("whitespace")
        assert kind[index] == line


def share(text: str, kind: int) -> float:
    """Share of the characters of `text` that are in lines of `kind`, blank lines left out."""
    lines = text.split("\n")
    found = kinds_of_lines(lines)
    filled = [(len(line), kind == one) for line, one in zip(lines, found, strict=True) if line.strip()]
    return sum(length for length, right in filled if right) / sum(length for length, _ in filled)


def test_novels_and_news_are_prose_and_worked_problems_maths(shared_dir: Path) -> None:
    for name in ("pride-and-prejudice", "middlemarch", "pud-en", "pud-de", "pud-zh", "pud-ar"):
        text = (shared_dir / "corpora" / f"{name}.txt").read_text(encoding="utf-8")[:300_000]
        assert share(text, PROSE) > 0.99, name
    lines = (shared_dir / "evals" / "gsm8k_train.jsonl").read_text(encoding="utf-8").split("\n")[:500]
    rows = [json.loads(line) for line in lines]
    assert share("\n".join(row["question"] for row in rows), PROSE) > 0.98
    assert share("\n".join(row["answer"] for row in rows), MATHS) > 0.95


def test_programs_are_code_and_what_they_say_is_prose() -> None:
    """Python's own parser says which lines of the library are code and which are text."""
    folder = Path(inspect.getfile(inspect)).parent
    right = {"code": 0, "text": 0}
    total = {"code": 0, "text": 0}
    for name in (
        "argparse",
        "ast",
        "calendar",
        "configparser",
        "dataclasses",
        "difflib",
        "functools",
        "heapq",
    ):
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        lines = source.split("\n")
        is_text = [False] * len(lines)
        with contextlib.suppress(tokenize.TokenError):
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if token.type == tokenize.STRING and token.end[0] > token.start[0] + 1:
                    is_text[token.start[0] : token.end[0] - 1] = [True] * (token.end[0] - token.start[0] - 1)
        for line, one, kind in zip(lines, is_text, kinds_of_lines(lines), strict=True):
            if line.strip() and not line.strip().startswith("#"):
                group = "text" if one else "code"
                total[group] += len(line)
                right[group] += len(line) * ((kind == PROSE) if one else (kind == CODE))
    assert right["code"] / total["code"] > 0.93
    # Docstrings quote programs too, and those quotations are code.
    assert right["text"] / total["text"] > 0.6

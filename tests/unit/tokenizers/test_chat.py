"""Conversations under two templates: reference, causal shift, refusals, cutting, the end of a turn."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignment_reference import exhaustive
from chat_reference import TEMPLATES, Messages, SlowSide, chat_tokenizer, slow_pair, token_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from distillation.aligners.base import Rows
from distillation.aligners.build import build_aligner
from distillation.errors import AlignmentError
from distillation.tokenizers.chat import ChatEncoder
from distillation.tokenizers.chat_template import ChatTemplate
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import EncodedPair, PairEncoder
from distillation.tokenizers.spans import align_spans, group_ids, group_spans

PAIRS = [("chatml", "llama"), ("llama", "chatml"), ("chatml", "trimming"), ("trimming", "chatml"),
         ("trimming", "llama"), ("chatml", "chatml"), ("chatml", "zephyr"),
         ("zephyr", "trimming")]  # fmt: skip
STARTS = {"chatml": None, "llama": 1, "trimming": 0, "zephyr": 0}


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


CONVERSATIONS = [
    talk("the dog", "the dogs sleep"),
    talk("user", "assistant", "assistant", "user", system="system"),
    talk("  what?\n\n", "\n\n  indented\n    code\n", system="Be brief, the dog."),
    talk("🙂 naïve", "é 日本語 🙂👩‍👩‍👧", "🙂", "🙂"),
    talk("the dog", "the dog", "the dog", "the dog, the dog"),
    talk("", "an answer to nothing", "more", ""),
    talk("a", "b"),
    talk("[INST] the [/INST]", "1234567890 and the dog's  two  spaces"),
    talk("no answer yet", "yes", "and then"),
    talk("x", "e\u0301 \u212b composed by nobody", system=" \n"),
]


@cache
def tokenizer(name: str) -> Any:
    return chat_tokenizer(name)


@cache
def pair_encoder(teacher: str, student: str) -> PairEncoder:
    return PairEncoder(tokenizer(teacher), tokenizer(student))


def encode(teacher: str, student: str, conversations: list[Messages]) -> list[EncodedPair | None]:
    encoder = pair_encoder(teacher, student)
    encoder.refusals.clear()
    return ChatEncoder(encoder, STARTS[teacher], STARTS[student]).encode(conversations)


def lengths_of(text: Any) -> list[int]:
    return np.diff(text.ends, prepend=0).tolist()


def assert_equals_reference(teacher: str, student: str, messages: Messages, pair: EncodedPair) -> None:
    sides = [SlowSide(tokenizer(name), TEMPLATES[name](messages)) for name in (teacher, student)]
    lengths = slow_pair(messages, *sides)
    has_start = [
        int(slow.ids[0] == STARTS[name]) for slow, name in zip(sides, (teacher, student), strict=True)
    ]
    for number, (got, slow) in enumerate(zip((pair.teacher, pair.student), sides, strict=True)):
        assert got.ids.tolist() == slow.ids[has_start[number] :]
        assert lengths_of(got) == lengths[number][has_start[number] :]
    assert pair.trained is not None
    assert pair.trained.tolist() == lengths[2][has_start[1] :]
    assert pair.num_bytes == sum(lengths[0]) == sum(lengths[1])


def assert_sound(teacher: str, student: str, messages: Messages, pair: EncodedPair) -> None:
    """Check what must hold whatever the template: bytes, shift, targets, training on answers alone."""
    joined = []
    tables = [token_bytes(tokenizer(name)) for name in (teacher, student)]
    for text, table in zip((pair.teacher, pair.student), tables, strict=True):
        sized = zip(text.ids.tolist(), lengths_of(text), strict=True)
        joined.append(b"".join(table.get(index, b"!") for index, length in sized if length))
    assert joined[0] == joined[1]
    assert len(joined[0]) == pair.num_bytes
    alignment = align_spans([pair])
    row = alignment.teacher_position_BT[0]
    student_length = np.array(lengths_of(pair.student))
    assert np.array_equal(row >= 0, student_length > 0)
    for position in np.flatnonzero(row >= 0).tolist():
        # The teacher's token at the row, with what is emitted of it taken off, begins the student's token.
        own = tables[1].get(int(pair.student.ids[position]), b"!")
        emitted, tail = int(alignment.num_emitted_BT[0, position]), int(alignment.num_tail_BT[0, position])
        last = int(row[position]) + tail
        ids = pair.teacher.ids[int(row[position]) : last + 1].tolist()
        spelled = b"".join(tables[0].get(index, b"!") for index in ids)[emitted:]
        assert spelled.startswith(own)
        assert emitted < len(tables[0].get(ids[0], b"!"))
    group, teacher_group = (ids[0] for ids in group_ids([pair]))
    assert np.array_equal(group >= 0, student_length > 0)
    assert np.array_equal(teacher_group >= 0, np.array(lengths_of(pair.teacher)) > 0)
    assert group.max(initial=-1) + 1 == len(group_spans([pair]).window_G)
    said = [m["content"].strip() for m in messages if m["role"] == "assistant" and m["content"].strip()]
    assert pair.trained is not None
    written = tokenizer(student).decode(pair.student.ids[pair.trained], skip_special_tokens=True)
    assert "".join(written.split()) == "".join("".join(said).split())


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_equals_reference(teacher: str, student: str) -> None:
    pairs = encode(teacher, student, CONVERSATIONS)
    for messages, pair in zip(CONVERSATIONS, pairs, strict=True):
        assert pair is not None, pair_encoder(teacher, student).refusals
        normal = [one | {"content": one["content"] if one["content"].strip() else ""} for one in messages]
        assert_equals_reference(teacher, student, normal, pair)
        assert_sound(teacher, student, normal, pair)


WORDS = ["the", " dog", "dogs", "user", "assistant", "\n", "  ", " ", "é", "🙂", "1", "[INST]", "system", "a"]
contents = st.lists(st.sampled_from(WORDS), max_size=7).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    system = draw(st.none() | contents)
    messages = talk(*draw(st.lists(contents, min_size=2, max_size=5)), system=system)
    return [one | {"content": one["content"] if one["content"].strip() else ""} for one in messages]


@settings(exhaustive, max_examples=150)
@given(conversations(), st.sampled_from(PAIRS))
def test_random_conversations(messages: list[dict[str, str]], names: tuple[str, str]) -> None:
    (pair,) = encode(*names, [messages])
    if not any(one["role"] == "assistant" and one["content"] for one in messages):
        assert pair is None
        assert pair_encoder(*names).refusals == {"no answer": 1}
        return
    assert pair is not None, pair_encoder(*names).refusals
    assert_equals_reference(*names, messages, pair)
    assert_sound(*names, messages, pair)


def test_a_planted_fault_is_caught() -> None:
    messages = talk("the dog", "the dogs sleep")
    (pair,) = encode("chatml", "trimming", [messages])
    assert pair is not None
    ids = np.roll(pair.teacher.ids, 1)
    shifted = EncodedPair(
        type(pair.teacher)(ids, pair.teacher.ends), pair.student, pair.num_bytes, pair.trained
    )
    with pytest.raises(AssertionError):
        assert_sound("chatml", "trimming", messages, shifted)


def test_by_hand() -> None:
    """` the` straddles the edge of Llama's answer: read and trained on by its text, not aligned."""
    (pair,) = encode("chatml", "llama", [talk("user", "the dogs")])
    assert pair is not None
    names = tokenizer("llama").convert_ids_to_tokens(pair.student.ids)
    trained = [name for name, is_trained in zip(names, pair.trained, strict=True) if is_trained]
    assert trained == ["▁the", "▁dog", "s", "▁", "</s>"]
    aligned = align_spans([pair]).teacher_position_BT[0] >= 0
    assert [name for name, has_row in zip(names, aligned, strict=True) if has_row][-2:] == ["▁dog", "s"]


def test_a_start_token_in_the_template_changes_nothing() -> None:
    with_start, without = tokenizer("trimming"), copy.deepcopy(tokenizer("trimming"))
    without.chat_template = without.chat_template.replace("{{ bos_token }}", "")
    pairs = []
    for teacher in (with_start, without):
        for student in (with_start, without):
            pairs += ChatEncoder(PairEncoder(teacher, student), 0, 0).encode([talk("hm", "the dog")])
    for pair in pairs[1:]:
        assert np.array_equal(pair.teacher.ids, pairs[0].teacher.ids)
        assert np.array_equal(pair.student.ends, pairs[0].student.ends)
        assert np.array_equal(pair.trained, pairs[0].trained)


@pytest.mark.parametrize("strategy", ["prefix", "shared"])
def test_the_teacher_says_where_to_stop(strategy: str) -> None:
    teacher, student = tokenizer("chatml"), tokenizer("trimming")
    (pair,) = encode("chatml", "trimming", [talk("the dog", "sleeps", "and", "eats  ")])
    assert pair is not None
    aligner = build_aligner(
        strategy, teacher, student, num_teacher_rows=len(teacher), num_student_rows=len(student)
    )
    alignment = aligner.align([pair])
    stop, teacher_stop = (t.convert_tokens_to_ids("<|im_end|>") for t in (student, teacher))
    # The second answer ends in spaces that the student's template strips: there is no common end of turn.
    (position,) = np.flatnonzero((pair.student.ids == stop) & (alignment.teacher_position_BT[0] >= 0))
    row = alignment.teacher_position_BT[0, position]
    assert pair.teacher.ids[row] == teacher_stop
    assert pair.trained is not None
    assert pair.trained[pair.student.ids == stop].tolist() == [False, False, True, False, True]
    log_probs = torch.randn(1, len(teacher), generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    rows = Rows(
        teacher_token_N=torch.tensor([teacher_stop]),
        student_token_N=torch.tensor([stop]),
        num_emitted_N=torch.tensor([int(alignment.num_emitted_BT[0, position])]),
        num_tail_N=torch.tensor([int(alignment.num_tail_BT[0, position])]),
        tail_log_prob_N=torch.zeros(1),
    )
    targets = aligner.targets(log_probs, rows)
    expected = log_probs[0, teacher_stop].exp()
    if strategy == "shared":
        ids = [teacher.get_vocab().get(token) for token in student.get_vocab()]
        expected = expected / log_probs[0, [index for index in ids if index is not None]].exp().sum()
    assert bool(targets.usable_N.all())
    assert targets.probabilities_NV[0, stop].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "turn",
    [
        "{{ bos_token }}[INST]\n{{ m['content'] }}\n",  # what follows an answer begins the next turn
        "{{ m['content'] }} over{{ eos_token }}\n",  # what follows an answer is more text
        "{{ m['content'] }}\n",  # nothing ends a turn
    ],
)
def test_where_no_token_ends_a_turn_the_answer_alone_is_trained_on(turn: str) -> None:
    student = copy.deepcopy(tokenizer("trimming"))
    student.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    messages = talk("hm", "the dog", "hm", "dogs")
    (pair,) = ChatEncoder(PairEncoder(tokenizer("chatml"), student), None, 0).encode([messages])
    assert pair is not None
    tokens = np.array(student.convert_ids_to_tokens(pair.student.ids))[pair.trained]
    assert "".join(tokens).replace("Ġ", " ").replace("Ċ", "\n").strip() == "the dogdogs"
    assert pair.num_bytes == len("hmthe doghmdogs")


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("template", "messages", "cause"),
    [
        ("{{ messages[1]['content'] | upper }}", talk("a", "the dog"), "drops or reorders messages"),
        (
            "{% for m in messages %}{{ m['content'] | replace('dog', 'cat') }}\n{% endfor %}",
            talk("a", "the dog"),
            "the template changes a content (teacher)",
        ),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
            "{% endif %}",
            talk("a", "b", system="c"),
            "the template refuses the roles: System role not supported (teacher)",
        ),
        (
            "{% for m in messages | reverse %}{{ m['content'] }}\n{% endfor %}",
            talk("a", "b"),
            "the template drops or reorders messages (teacher)",
        ),
        (None, talk("a", "bad \ud800"), "not valid Unicode"),
        (None, talk("a question"), "no answer"),
        (None, talk("a", " \n "), "no answer"),
        (None, [], "no answer"),
    ],
)
def test_what_is_refused_is_counted(template: str | None, messages: Messages, cause: str) -> None:
    teacher = copy.deepcopy(tokenizer("chatml"))
    teacher.chat_template = template or teacher.chat_template
    encoder = PairEncoder(teacher, tokenizer("chatml"))
    fine = talk("the", "dog")
    pairs = ChatEncoder(encoder, None, None).encode([messages, fine])
    assert pairs[0] is None
    ((found, count),) = [item for item in encoder.refusals.items() if cause in item[0]]
    assert count >= 1
    assert len(found.splitlines()) == 1
    assert template is not None or pairs[1] is not None


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_what_spells_a_special_token_in_a_content_is_text(teacher: str, student: str) -> None:
    markup = "<|im_end|>\n<|im_start|>assistant\n</s><s>[INST]<|endoftext|>"
    messages = talk(f"what is {markup}", f"that is {markup} and the dog", "and", "the dogs")
    other = talk("what is the dog", "that is the dog and the dog", "and", "the dogs")
    pair, reference = encode(teacher, student, [messages, other])
    assert pair is not None, pair_encoder(teacher, student).refusals
    assert_sound(teacher, student, messages, pair)
    for side, plain, name in (
        (pair.teacher, reference.teacher, teacher),
        (pair.student, reference.student, student),
    ):
        special = tokenizer(name).all_special_ids + list(tokenizer(name).added_tokens_decoder)
        found, expected = (text.ids[np.isin(text.ids, special)].tolist() for text in (side, plain))
        assert found == expected, "the template's own markup, and no other"
    table = token_bytes(tokenizer(student))
    is_text = pair.trained & np.isin(pair.student.ids, list(table))
    trained = b"".join(table[index] for index in pair.student.ids[is_text].tolist()).decode()
    assert f"that is {markup} and the dog" in trained


THINKING = (
    "{%- for m in messages %}{%- set c = m.content %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' %}{%- set r = '' %}{%- if '</think>' in c %}"
    "{%- set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.last %}{{- '<think>\n' + r + '\n</think>\n\n' }}{%- endif %}{%- endif %}"
    "{{- c + '<|im_end|>\n' }}{%- endfor %}"
)
"""As Qwen3's: the last answer keeps its thinking, the others lose it."""


@pytest.mark.parametrize("inner", ["\nthe dog\n\nand more\n", "\n\n"])
def test_thinking_that_is_written_as_it_stands_is_used(inner: str) -> None:
    teacher = copy.deepcopy(tokenizer("chatml"))
    teacher.chat_template = THINKING
    encoder = PairEncoder(teacher, tokenizer("chatml"))
    answer = f"<think>{inner}</think>\n\nthe dogs sleep"
    messages = talk("what?", "the dog", "and?", answer)
    for sides in ((teacher, tokenizer("chatml")), (tokenizer("chatml"), teacher)):
        encoder = PairEncoder(*sides)
        (pair,) = ChatEncoder(encoder, None, None).encode([messages])
        assert pair is not None, encoder.refusals
        common = pair.student.ids[pair.student.ends > pair.student.begins].tolist()
        table = encoder.student_bytes.table
        assert answer.encode() in b"".join(table[index] or b"!" for index in common)
        assert pair.trained.sum() >= len(answer) / 4


@pytest.mark.parametrize(
    "messages",
    [
        talk("what?", "<think>the dog</think>the dogs"),  # is written with other line ends
        talk("what?", "<think>\nthe dog\n</think>\n\nthe dogs", "and?", "the dog"),  # is dropped
    ],
)
def test_thinking_that_is_rewritten_is_refused(messages: Messages) -> None:
    teacher = copy.deepcopy(tokenizer("chatml"))
    teacher.chat_template = THINKING
    encoder = PairEncoder(teacher, tokenizer("chatml"))
    assert ChatEncoder(encoder, None, None).encode([messages]) == [None]
    assert encoder.refusals == {"the template changes a content (teacher)": 1}


def test_an_unknown_token_is_refused() -> None:
    student = copy.deepcopy(tokenizer("llama"))
    backend = student.backend_tokenizer
    backend.model.byte_fallback = False
    encoder = PairEncoder(tokenizer("chatml"), student)
    assert ChatEncoder(encoder, None, 1).encode([talk("the dog", "日本")]) == [None]
    assert encoder.refusals == {"unknown token (student)": 1}


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_no_template_is_one_line(role: str) -> None:
    bare = copy.deepcopy(tokenizer("chatml"))
    bare.chat_template = None
    sides = (bare, tokenizer("chatml")) if role == "teacher" else (tokenizer("chatml"), bare)
    with pytest.raises(
        AlignmentError, match=rf"models\.{role}\.path = .*no chat template.*chat_template\.jinja"
    ):
        ChatEncoder(PairEncoder(*sides), None, None)


def test_the_date_stands_still() -> None:
    """A run that is resumed tomorrow must read the same text."""
    dated = copy.deepcopy(tokenizer("chatml"))
    dated.chat_template = "{{ strftime_now('%d %b %Y|%d %B %Y|%Y-%m-%d') }}\n" + dated.chat_template
    rendered = ChatTemplate(dated, "teacher").render(talk("a", "b"))
    assert not isinstance(rendered, str)
    assert rendered.text.startswith("26 Jul 2024|26 July 2024|2024-07-26\n<|im_start|>user\na<|im_end|>")


# --------------------------------------------------------------------------------------------- cutting


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("max_tokens", [6, 12, 20, 33, 10_000])
def test_pieces_of_a_conversation(names: tuple[str, str], max_tokens: int) -> None:
    for pair in encode(*names, CONVERSATIONS):
        assert pair is not None
        pieces = list(cut_pair(pair, max_tokens))
        fits = max(len(pair.teacher.ids), len(pair.student.ids)) <= max_tokens
        if fits:
            assert pieces == [pair]
        for side in ("teacher", "student"):
            whole = getattr(pair, side).ids.tolist()
            place = 0
            for piece in pieces:
                text = getattr(piece, side)
                ids = text.ids.tolist()
                assert 0 < len(ids) <= max_tokens
                assert piece.num_bytes > 0
                while whole[place : place + len(ids)] != ids:  # a stretch may have been left out
                    place += 1
                    assert place < len(whole)
                place += len(ids)
                assert text.ends[-1] == piece.num_bytes
                assert (np.diff(text.ends, prepend=0) >= 0).all()
        for piece in pieces:
            assert piece.trained is not None
            assert len(piece.trained) == len(piece.student.ids)
            # Trained on but without bytes is the rest of a turn, or comes after a header: it begins no piece.
            assert not piece.trained[0] or piece.student.ends[0] > 0
            aligned = align_spans([piece]).teacher_position_BT[0] >= 0
            assert np.array_equal(aligned, np.array(lengths_of(piece.student)) > 0)
        if pieces:
            trained = np.concatenate([piece.trained for piece in pieces])
            assert trained.sum() <= pair.trained.sum()


def test_a_header_goes_with_its_message_and_an_end_of_turn_is_never_alone() -> None:
    answer = " ".join(["the dog sleeps"] * 6)
    messages = talk("the dog", answer, "and then", answer)
    (pair,) = encode("chatml", "trimming", [messages])
    assert pair is not None
    whole = tokenizer("trimming").decode(pair.student.ids)
    stop = tokenizer("trimming").convert_tokens_to_ids("<|im_end|>")
    for max_tokens in range(24, 120):
        for piece in cut_pair(pair, max_tokens):
            for name, text in (("chatml", piece.teacher), ("trimming", piece.student)):
                assert (
                    not tokenizer(name).decode(text.ids).endswith(("assistant\n", "user\n", "<|im_start|>"))
                )
            assert piece.student.ids[0] != stop or not piece.trained[0]
            assert tokenizer("trimming").decode(piece.student.ids) in whole


# --------------------------------------------------------------------------------------------- real ones


def test_real_tokenizers_on_worked_problems(shared_dir: Path) -> None:
    import json

    from transformers import AutoTokenizer

    sides = [AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / name) for name in ("qwen2", "smollm")]
    for side in sides:
        side.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        side.chat_template = tokenizer("chatml").chat_template
    lines = (shared_dir / "evals" / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    rows = [json.loads(line) for line in lines]
    encoder = PairEncoder(*sides)
    pairs = ChatEncoder(encoder, None, None).encode([talk(row["question"], row["answer"]) for row in rows])
    assert not encoder.refusals
    num_trained = num_aligned = 0
    for pair, row in zip(pairs, rows, strict=True):
        assert pair is not None
        assert sides[1].decode(pair.student.ids[pair.trained]) == row["answer"] + "<|im_end|>"
        aligned = align_spans([pair]).teacher_position_BT[0] >= 0
        num_trained += int(pair.trained.sum())
        num_aligned += int((pair.trained & aligned).sum())
        # All content of both messages, and the byte of the one end of turn.
        assert pair.num_bytes == len((row["question"] + row["answer"]).encode()) + 1
    assert num_aligned == num_trained

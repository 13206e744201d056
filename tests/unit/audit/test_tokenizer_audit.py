"""The audit on small tokenizers, counted by hand or one token at a time."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter, defaultdict

import pytest
import torch
from alignment_reference import END, SENTENCES, trained_byte_level, vocabulary_bytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from distillation.aligners.build import build_aligner
from distillation.audit.advice import ENOUGH_SHARED, MOSTLY_PAST
from distillation.audit.audit import TokenizerAudit, audit_tokenizers
from distillation.audit.coverage import BEYOND, LEFT_OUT, RESIDUAL, CorpusAudit
from distillation.errors import AlignmentError
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.spans import align_spans

TEXTS = [f"{number} {SENTENCES[number % 4]}" for number in range(300)]
MIXED = [
    *TEXTS[:40],
    "def f(x_1):\n    if x_1:\n        return  x_1 + 1\n\n\n    return {\n\t'a': 10,\n    }\n",
    "So 12 + 30 = 42, and 42 / 2 = 21.\nПривет, мир\nΩmega 漢字かな",
]


def small(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def characters(letters: str) -> Tokenizer:
    """A SentencePiece-like vocabulary of whole characters, without bytes to fall back on."""
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(["<unk>", *letters])}, [],
                                     unk_token="<unk>"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return tokenizer


def byte_letters(text: str) -> list[str]:
    """The letters of GPT-2's alphabet that stand for the bytes of `text`."""
    return [letter for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            .pre_tokenize_str(text) for letter in piece]  # fmt: skip


def corpus_of(audit: TokenizerAudit) -> CorpusAudit:
    assert audit.corpus is not None
    return audit.corpus


def test_counted_by_hand() -> None:
    teacher = small(["a", "b", "c", "Ġ", "ab", "abc"], [("a", "b"), ("ab", "c")])
    student = small(["a", "c", "b", "Ġ", "bc", "ĠĠ"], [("b", "c"), ("Ġ", "Ġ")])
    # teacher: abc|ab|_|_|b|c   student: a|bc|a|b|__|bc   shared ends: 3, 5, 7, 9
    audit = audit_tokenizers(teacher, student, ["abcab  bc"], num_teacher_rows=9)
    assert (audit.num_equal_ids, audit.num_compared_ids) == (2, 6)  # "a" and the space
    assert audit.num_shared_tokens == 4
    assert audit.num_student_only_tokens == 2
    assert audit.num_shared_dropped_by_truncation == 0
    assert audit.teacher.num_rows_without_token == 3
    assert len(audit.student.missing_bytes) == 252
    corpus = corpus_of(audit)
    assert (corpus.num_bytes, corpus.num_teacher_tokens, corpus.num_student_tokens) == (9, 6, 6)
    assert corpus.groups == {"1:1": 0, "1:n": 2, "n:1": 2, "n:m": 0}
    assert corpus.share_inside_teacher_token == pytest.approx(2 / 6)
    assert corpus.share_past_teacher_token == pytest.approx(2 / 6)
    assert corpus.whitespace_share == corpus.whitespace_hazard_share == pytest.approx(1 / 6)
    assert corpus.retained_shared == pytest.approx(4 / 6)  # all but "abc" and "ab"
    assert corpus.truncate_same_meaning == pytest.approx(2 / 6)  # the two spaces
    assert corpus.coverage["shared"].share_with_target == 0
    assert corpus.coverage["projection"].share_with_target == pytest.approx(4 / 6)
    assert corpus.coverage["prefix"].share_with_target == 1
    assert corpus.coverage["truncate"].share_sound == pytest.approx(1 / 6)  # only the first
    assert {name: one.num_positions for name, one in corpus.kinds.items()} == {"prose": 5, "whitespace": 1}
    assert {name: one.num_positions for name, one in corpus.scripts.items()} == {"Latin": 5, "common": 1}
    assert corpus.kinds["whitespace"].num_teacher_tokens == 2
    assert corpus.kinds["whitespace"].retained_shared == 1
    assert corpus.kinds["prose"].retained_shared == pytest.approx(2 / 4)
    assert_adds_up(corpus)


def test_a_row_of_the_same_number_is_right_only_at_its_own_byte() -> None:
    letters = ["a", "b", "c", "d"]
    teacher = small([*letters, "bc", "bcd"], [("b", "c"), ("bc", "d")])
    student = small([*letters, "ab", "cd"], [("a", "b"), ("c", "d")])
    # a|bcd and ab|cd: position 1 begins inside row 1, which has not read the b.
    assert corpus_of(audit_tokenizers(teacher, student, ["abcd"])).coverage["truncate"].share_sound == 1 / 2


def assert_adds_up(corpus: CorpusAudit) -> None:
    """Causes and share make 1 in every slice; slices, weighed by positions, make the whole."""
    for part in (corpus, *corpus.kinds.values(), *corpus.scripts.values()):
        for coverage in part.coverage.values():
            total = coverage.share_with_target + sum(coverage.causes_without_target.values())
            assert total == pytest.approx(1.0)
    for slices in (corpus.kinds, corpus.scripts):
        assert sum(one.num_positions for one in slices.values()) == corpus.num_positions
        assert sum(one.num_teacher_tokens for one in slices.values()) == corpus.num_teacher_tokens
        assert sum(one.share_of_positions for one in slices.values()) == pytest.approx(1.0)
        for name, whole in corpus.coverage.items():
            for field in ("share_with_target", "share_sound"):
                weighed = [
                    one.share_of_positions * getattr(one.coverage[name], field) for one in slices.values()
                ]
                assert sum(weighed) == pytest.approx(getattr(whole, field))
            causes = defaultdict(float)
            for one in slices.values():
                for cause, share in one.coverage[name].causes_without_target.items():
                    causes[cause] += one.share_of_positions * share
            assert dict(causes) == pytest.approx(whole.causes_without_target)


def test_shares_agree_with_the_alignment_over_many_batches() -> None:
    teacher, student = trained_byte_level(420), trained_byte_level(310, split_digits=True)
    texts = [*TEXTS, "", f"what spells {END} is text", "\ud800"]
    corpus = corpus_of(audit_tokenizers(teacher, student, iter(texts)))
    assert (corpus.num_texts, corpus.num_refused_texts) == (303, 2)
    assert corpus.refusals == {"empty": 1, "not valid Unicode": 1}
    pairs = [pair for pair in PairEncoder(teacher, student).encode(texts) if pair is not None]
    alignment = align_spans(pairs)
    num_tokens = sum(len(pair.student.ids) for pair in pairs)
    assert corpus.num_student_tokens == num_tokens
    one_to_one = alignment.is_one_to_one_BT.sum() / num_tokens
    assert corpus.one_to_one_student_token_share == pytest.approx(one_to_one)
    assert sum(corpus.groups.values()) == corpus.num_groups
    assert corpus.num_bytes == sum(pair.num_bytes for pair in pairs)
    # Every aligner of the package gives a target where the audit says so.
    sizes = {"num_teacher_rows": 420, "num_student_rows": 310}
    for name in ("prefix", "shared", "projection", "truncate", "pad"):
        aligned = build_aligner(name, teacher, student, **sizes).align(pairs)
        used = (aligned.teacher_position_BT >= 0).sum() / corpus.num_positions
        assert corpus.coverage[name].share_with_target == pytest.approx(used), name
    assert_adds_up(corpus)


def slow_slices(teacher: Tokenizer, student: Tokenizer, texts: list[str]) -> dict[str, Counter]:
    """Script -> counts of positions, of 1:1 ones and of those at shared boundaries, token by token."""
    counts: dict[str, Counter] = defaultdict(Counter)
    tables = vocabulary_bytes(teacher), vocabulary_bytes(student)
    for text in texts:
        spans = []
        for tokenizer, table in zip((teacher, student), tables, strict=True):
            place, found = 0, []
            for index in tokenizer.encode(text).ids:
                found.append((place, place + len(table[index])))
                place += len(table[index])
            spans.append(found)
        owner = [character for character in text for _ in character.encode()]
        begins = {begin for begin, _ in spans[0]}
        for position, (begin, end) in enumerate(spans[1]):
            letters = [
                character for character in owner[begin:end] if unicodedata.category(character)[0] == "L"
            ]
            word = unicodedata.name(letters[0]).split()[0] if letters else "COMMON"
            is_right = position < len(spans[0]) and spans[0][position][0] == begin
            script = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}.get(word, word.capitalize())
            counts[script.replace("Common", "common")].update(
                positions=1, shared=(begin, end) in spans[0], projection=begin in begins, truncate=is_right
            )
    return counts


def test_slices_by_script_are_those_of_the_slow_count() -> None:
    teacher, student = trained_byte_level(420), trained_byte_level(310, split_digits=True)
    corpus = corpus_of(audit_tokenizers(teacher, student, MIXED))
    expected = slow_slices(teacher, student, MIXED)
    assert {name: one.num_positions for name, one in corpus.scripts.items()} == {
        name: count["positions"] for name, count in expected.items()
    }
    assert {"Latin", "Cyrillic", "Greek", "Han", "Kana", "common"} == expected.keys()
    for name, one in corpus.scripts.items():
        for aligner in ("shared", "projection"):
            share = expected[name][aligner] / expected[name]["positions"]
            assert one.coverage[aligner].share_with_target == pytest.approx(share)
        right = expected[name]["truncate"] / expected[name]["positions"]
        assert one.coverage["truncate"].share_sound == pytest.approx(right)
    assert {"prose", "code", "maths", "whitespace"} == corpus.kinds.keys()
    assert_adds_up(corpus)


def test_refused_texts_count_as_lost_positions() -> None:
    teacher, student = trained_byte_level(420), trained_byte_level(310)
    kept, refused = SENTENCES[0], ["lone \ud800 surrogate"]
    corpus = corpus_of(audit_tokenizers(teacher, student, [kept, *refused, ""]))
    num_lost = len(student.encode("lone ? surrogate").ids)
    assert corpus.num_student_tokens == len(student.encode(kept).ids)
    assert corpus.num_positions == corpus.num_student_tokens + num_lost
    causes = corpus.coverage["prefix"].causes_without_target
    assert causes["text refused: not valid Unicode"] == num_lost / corpus.num_positions
    assert corpus.coverage["prefix"].share_with_target == corpus.num_student_tokens / corpus.num_positions
    assert_adds_up(corpus)
    only_refused = audit_tokenizers(teacher, student, refused)
    assert corpus_of(only_refused).coverage["shared"].share_with_target == 0
    assert "all texts were refused" in only_refused.advice
    assert "First mend the texts" in audit_tokenizers(teacher, student, [kept, *refused]).advice


@pytest.mark.parametrize("window_length", [2, 3, 5, 9, 40])
def test_what_no_window_holds_counts_as_lost(window_length: int) -> None:
    teacher, student = trained_byte_level(420), trained_byte_level(280, split_digits=True)
    corpus = corpus_of(audit_tokenizers(teacher, student, MIXED, window_length=window_length))
    pairs = [pair for pair in PairEncoder(teacher, student).encode(MIXED) if pair is not None]
    windows = [window for pair in pairs for window in cut_pair(pair, window_length - 1)]
    num_kept = sum(len(window.student.ids) for window in windows)
    lost = 1 - num_kept / corpus.num_positions
    assert corpus.coverage["prefix"].share_with_target == pytest.approx(num_kept / corpus.num_positions)
    assert corpus.coverage["prefix"].causes_without_target.get(LEFT_OUT, 0.0) == pytest.approx(lost)
    assert (lost > 0) == (window_length < 40)
    rows = build_aligner("truncate", teacher, student, num_teacher_rows=420, num_student_rows=280).align(
        windows
    )
    used = (rows.teacher_position_BT >= 0).sum() / corpus.num_positions
    assert corpus.coverage["truncate"].share_with_target == pytest.approx(used)
    assert_adds_up(corpus)


def test_a_teacher_token_that_cannot_be_begun_is_a_cause_of_loss() -> None:
    letters = byte_letters("é")
    teacher = small(["a", "Ġ", *letters], [])
    audit = audit_tokenizers(teacher, characters("aé▁"), ["aé aé"])
    # The teacher writes é in two bytes, of which the student has neither: 2 of 5 positions begin there.
    coverage = corpus_of(audit).coverage["prefix"]
    assert coverage.causes_without_target == {RESIDUAL: pytest.approx(2 / 5), BEYOND: 0}
    assert coverage.share_with_target == pytest.approx(3 / 5)
    assert audit.num_unwritable_teacher_tokens == 2
    # a + the first byte of é is one token now: it can be begun, but not be gone on with after the a.
    teacher = small(["a", "Ġ", *letters, "a" + letters[0]], [("a", letters[0])])
    coverage = corpus_of(audit_tokenizers(teacher, characters("aé▁"), ["aé a aé"])).coverage["prefix"]
    assert coverage.causes_without_target == {RESIDUAL: pytest.approx(2 / 7), BEYOND: 0}


def test_same_tokenizer_is_plain() -> None:
    tokenizer = trained_byte_level(300)
    audit = audit_tokenizers(tokenizer, tokenizer, SENTENCES)
    assert audit.identical_tokenizers
    assert audit.num_equal_ids == audit.num_compared_ids == 300
    assert corpus_of(audit).coverage["truncate"].share_sound == 1.0
    assert audit.recommended_strategy == "pad"
    assert "the same" in audit.advice


def test_missing_bytes_and_no_texts() -> None:
    audit = audit_tokenizers(trained_byte_level(300), small(["a", "b"], []))
    assert audit.corpus is None
    assert audit.recommended_strategy == "prefix"
    assert "give texts" in audit.advice
    assert len(audit.student.missing_bytes) == 254
    writable = [t for t in vocabulary_bytes(trained_byte_level(300)).values() if t[:1] in (b"a", b"b")]
    assert audit.num_unwritable_teacher_tokens == 299 - len(writable)


def test_too_few_output_rows_are_refused() -> None:
    tokenizer = trained_byte_level(300)
    with pytest.raises(AlignmentError, match="teacher: the output layer has 299 rows but the tokenizer 300"):
        audit_tokenizers(tokenizer, tokenizer, num_teacher_rows=299)


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_added_tokens_beyond_the_rows_are_as_if_they_were_not_there(role: str, is_special: bool) -> None:
    """Gemma 3's image token, a padding token of Llama 2: added to the tokenizer and not to the model."""
    plain, other = trained_byte_level(300), trained_byte_level(340)
    extended = Tokenizer.from_str(plain.to_str())
    tokens = [AddedToken("<image>", special=is_special), AddedToken("  ", special=is_special)]
    (extended.add_special_tokens if is_special else extended.add_tokens)(tokens)
    assert extended.get_vocab_size() == 302
    texts = [*SENTENCES, "an <image>  and spaces"]
    rows = {"num_teacher_rows": 300, "num_student_rows": 340}
    if role == "student":
        rows = {"num_teacher_rows": 340, "num_student_rows": 300}

    def sides(one: Tokenizer) -> tuple[Tokenizer, Tokenizer]:
        return (one, other) if role == "teacher" else (other, one)

    audit = audit_tokenizers(*sides(extended), texts, **rows)
    assert audit == audit_tokenizers(*sides(plain), texts, **rows)
    assert corpus_of(audit).num_refused_texts == 0
    for strategy in ("prefix", "shared", "projection", "truncate"):
        found = build_aligner(strategy, *sides(extended), **rows).tables
        expected = build_aligner(strategy, *sides(plain), **rows).tables
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    pairs = [PairEncoder(*sides(one), **rows).encode(texts) for one in (extended, plain)]
    for one, reference in zip(*pairs, strict=True):
        assert one.teacher.ids.tolist() == reference.teacher.ids.tolist()
        assert one.student.ids.tolist() == reference.student.ids.tolist()


def test_one_tokenizer_whose_added_token_only_one_model_has() -> None:
    tokenizer = trained_byte_level(300)
    tokenizer.add_special_tokens(["<image>"])
    aligner = build_aligner("prefix", tokenizer, tokenizer, num_teacher_rows=301, num_student_rows=300)
    assert aligner.tables["first_token"].tolist() == list(range(301))  # 300 is the residual


def test_advice_differs_with_the_numbers() -> None:
    fine = trained_byte_level(257)  # bytes and the special token
    coarse = trained_byte_level(420)
    into_bytes = audit_tokenizers(coarse, fine, SENTENCES)
    assert into_bytes.recommended_strategy == "prefix"
    assert "`shared` would leave out" in into_bytes.advice
    from_bytes = audit_tokenizers(fine, coarse, SENTENCES)
    assert corpus_of(from_bytes).share_past_teacher_token >= MOSTLY_PAST
    assert from_bytes.recommended_strategy == "likelihood"

    # One more token at the front moves every id, but no cut.
    vocabulary = ["unused", *sorted(coarse.get_vocab(), key=coarse.get_vocab().__getitem__)]
    shifted = moved(coarse, vocabulary)
    alike = audit_tokenizers(coarse, shifted, SENTENCES)
    assert corpus_of(alike).coverage["shared"].share_with_target >= ENOUGH_SHARED
    assert alike.recommended_strategy == "shared"
    longer = moved(coarse, [*vocabulary[1:], "never"])
    assert not audit_tokenizers(coarse, longer, SENTENCES).identical_tokenizers
    assert audit_tokenizers(coarse, longer, SENTENCES).recommended_strategy == "pad"


def moved(tokenizer: Tokenizer, vocabulary: list[str]) -> Tokenizer:
    """The same rules, with ids as in `vocabulary`."""
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] = {token: index for index, token in enumerate(vocabulary)}
    for added in content["added_tokens"]:
        added["id"] = vocabulary.index(added["content"])
    return Tokenizer.from_str(json.dumps(content))


def test_it_survives_json() -> None:
    audit = audit_tokenizers(trained_byte_level(420), trained_byte_level(310), MIXED, window_length=9)
    assert TokenizerAudit.model_validate_json(audit.model_dump_json()) == audit

"""Tasks through the real lm-eval: log-probabilities, accuracies, BOS, and no trace left behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distillation.config import EvaluationSettings, ModelReference
from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.embedded_tasks import choice_items, cloze_items
from distillation.evaluation.harness_model import HarnessModel
from distillation.evaluation.tasks import measure_tasks, prepared_tasks
from distillation.models.load import load_model, load_tokenizer, start_token_id

LIMIT = 24
ITEM_CONTEXTS = (
    ("Return a new list", " containing all items"),
    ("Raises ValueError  ", "if the key"),  # white space at the end of a context belongs to what follows
    ("", "The quick brown fox"),
    ("He wrote <|endoftext|> and", " <|endoftext|> again"),
    ("数据 déjà v", "u: naïve"),  # parted within a word
)


@pytest.fixture(scope="module")
def pair(tiny_teacher_dir, tiny_student_dir):
    """(model, tokenizer) of the tiny teacher and of the tiny student."""
    loaded = {}
    for role, path in (("teacher", tiny_teacher_dir), ("student", tiny_student_dir)):
        reference = ModelReference(path=str(path))
        loaded[role] = load_model(reference, role, dtype="float32"), load_tokenizer(reference, role)
    return loaded


@pytest.fixture(scope="module")
def prepared(english_documents):
    with prepared_tasks(english_documents, EvaluationSettings(task_limit=LIMIT)) as tasks:
        assert not tasks.reasons
        yield tasks


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def naive(model, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """Reference: start token, whole text in one pass, the tokens after the common beginning summed."""
    start = [start_token_id(tokenizer)]
    before, whole = (
        start + ids_of(tokenizer, context.rstrip()),
        start + ids_of(tokenizer, context + continuation),
    )
    num_common = 0
    while num_common < len(before) and before[num_common] == whole[num_common]:
        num_common += 1
    with torch.no_grad():
        log_probs_TV = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    total, is_greedy = 0.0, True
    for position in range(num_common, len(whole)):
        total += float(log_probs_TV[position - 1, whole[position]])
        is_greedy &= int(log_probs_TV[position - 1].argmax()) == whole[position]
    return total, is_greedy


def ask(model, tokenizer, pairs, tokens_per_batch=512):
    from lm_eval.api.instance import Instance

    asked = HarnessModel(model, tokenizer, tokens_per_batch=tokens_per_batch)
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    return asked.loglikelihood(requests, disable_tqdm=True)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_log_probabilities_equal_a_pass_by_hand(pair, role, tokens_per_batch):
    model, tokenizer = pair[role]
    answers = ask(model, tokenizer, ITEM_CONTEXTS, tokens_per_batch)
    for (log_prob, is_greedy), item in zip(answers, ITEM_CONTEXTS, strict=True):
        expected, expected_greedy = naive(model, tokenizer, *item)
        assert log_prob == pytest.approx(expected, rel=1e-5)
        assert is_greedy == expected_greedy


def test_the_start_token_decides(pair):
    """Without it the first token of an empty context could not be scored: another start, another figure."""
    model, tokenizer = pair["teacher"]
    with torch.no_grad():
        log_probs_V = model(torch.tensor([[start_token_id(tokenizer)]])).logits[0, -1].log_softmax(-1)
    (first,) = ids_of(tokenizer, "T")
    assert ask(model, tokenizer, [("", "T")])[0][0] == pytest.approx(float(log_probs_V[first]), rel=1e-5)


def test_the_librarys_own_model_agrees_where_conventions_do(pair):
    """HFLM of lm-eval, told to use the same start token, on items without what the two treat differently."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = pair["student"]
    items = [ITEM_CONTEXTS[0], ITEM_CONTEXTS[2]]

    class WithStart(HFLM):
        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            ids = tokenizer(string, add_special_tokens=False)["input_ids"]
            return ids if add_special_tokens is False else [start_token_id(tokenizer), *ids]

    theirs = WithStart(pretrained=model, tokenizer=tokenizer, batch_size=2, backend="causal")
    requests = [Instance("loglikelihood", {}, item, 0) for item in items]
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    for (log_prob, greedy), (their_log_prob, their_greedy) in zip(
        ask(model, tokenizer, items), expected, strict=True
    ):
        assert log_prob == pytest.approx(their_log_prob, rel=1e-5)
        assert greedy == their_greedy


def test_choices_of_one_token_share_a_pass(pair):
    model, tokenizer = pair["teacher"]
    items = [("The answer is", choice) for choice in (" a", "?", " b", "!", " the")]
    sizes = []
    asked = HarnessModel(model, tokenizer, tokens_per_batch=4096)
    states = asked._reader.states
    asked._reader.states = lambda ids, mask: sizes.append(len(ids)) or states(ids, mask)
    from lm_eval.api.instance import Instance

    answers = asked.loglikelihood(
        [Instance("loglikelihood", {}, item, 0) for item in items], disable_tqdm=True
    )
    assert sum(sizes) == 1 + sum(len(ids_of(tokenizer, choice)) > 1 for _, choice in items)
    assert [answer[0] for answer in answers] == pytest.approx(
        [naive(model, tokenizer, *item)[0] for item in items], rel=1e-5
    )


def test_a_long_context_loses_its_middle_not_its_start(pair):
    model, tokenizer = pair["student"]
    context, continuation = "word after word " * 120, "and the end"
    whole = ids_of(tokenizer, context + continuation)
    num_scored = len(whole) - len(ids_of(tokenizer, context.rstrip()))
    kept = [start_token_id(tokenizer), *whole[-256:]]
    with torch.no_grad():
        log_probs_TV = model(torch.tensor([kept[:-1]])).logits[0].log_softmax(-1)
    expected = sum(float(log_probs_TV[k - 1, kept[k]]) for k in range(len(kept) - num_scored, len(kept)))
    assert ask(model, tokenizer, [(context, continuation)])[0][0] == pytest.approx(expected, rel=1e-5)


def test_rolling_equals_bits_per_byte(pair, english_documents):
    from lm_eval.api.instance import Instance

    for model, tokenizer in pair.values():
        text = english_documents[3][:300]
        asked = HarnessModel(model, tokenizer, tokens_per_batch=512)
        (log_prob,) = asked.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
        measured = bits_per_byte(model, tokenizer, [text], max_length=256, stride=128, batch_size=1)
        assert measured.num_tokens < 256
        assert -log_prob / math.log(2) == pytest.approx(measured.total_bits, rel=1e-5)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_accuracies_equal_naive_ones(pair, prepared, english_documents, role):
    model, tokenizer = pair[role]
    results = {
        (one.name, one.metric): one
        for one in measure_tasks(prepared, model, tokenizer, tokens_per_batch=1024)
    }
    greedy = [
        naive(model, tokenizer, item["context"], item["target"])[1]
        for item in cloze_items(english_documents, LIMIT)
    ]
    whole, by_byte = [], []
    for item in choice_items(english_documents, LIMIT):
        sums = [naive(model, tokenizer, item["context"], choice)[0] for choice in item["choices"]]
        sizes = [len(choice.encode()) for choice in item["choices"]]
        whole.append(int(np.argmax(sums)) == item["answer"])
        by_byte.append(int(np.argmax(np.divide(sums, sizes))) == item["answer"])
    for key, right in (
        (("cloze", "acc"), greedy),
        (("choice", "acc"), whole),
        (("choice", "acc_bytes"), by_byte),
    ):
        result = results.pop(key)
        assert result.value == pytest.approx(np.mean(right))
        assert result.num_items == LIMIT == len(right)
        assert result.standard_error == pytest.approx(np.std(right, ddof=1) / math.sqrt(LIMIT))
        assert result.chance == (0.25 if key[0] == "choice" else None)
        assert result.is_share
    assert not results


@pytest.mark.parametrize("trained_on", ["cloze", "choice"])
def test_who_knows_the_answers_gets_them_right(tiny_teacher_dir, english_documents, prepared, trained_on):
    reference = ModelReference(path=str(tiny_teacher_dir))
    model, tokenizer = load_model(reference, "teacher", dtype="float32"), load_tokenizer(reference, "teacher")
    items = {"cloze": cloze_items, "choice": choice_items}[trained_on](english_documents, LIMIT)
    texts = [
        item["context"][-60:] + (item["target"] if trained_on == "cloze" else item["choices"][item["answer"]])
        for item in items
    ]
    # The context is cut for speed, so the items asked are cut alike.
    rows = [[start_token_id(tokenizer), *ids_of(tokenizer, text)] for text in texts]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels_BT = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        model(ids_BT, labels=labels_BT).loss.backward()
        optimiser.step()
    model.eval()
    task = prepared.loaded[trained_on]["tasks"][trained_on]
    whole = task.dataset
    task.dataset = {"test": whole["test"].map(lambda item: {"context": item["context"][-60:]})}
    task.task_docs = task.eval_docs
    try:
        results = measure_tasks(prepared, model, tokenizer, tokens_per_batch=4096)
    finally:
        task.dataset = whole
        task.task_docs = task.eval_docs
    assert next(one for one in results if one.name == trained_on).value > 0.9


def test_the_embedded_teacher_knows_what_comes_next(english_documents):
    reference = ModelReference(path="sample")
    with prepared_tasks(english_documents, EvaluationSettings(tasks=("choice",))) as tasks:
        results = measure_tasks(
            tasks,
            load_model(reference, "teacher", dtype="float32"),
            load_tokenizer(reference, "teacher"),
            tokens_per_batch=4096,
        )
    assert len(results) == 2
    for result in results:
        assert result.value - 2 * result.standard_error > result.chance == 0.25


def test_every_model_sees_the_same_items_and_twice_is_the_same(pair, prepared):
    seen = []
    for role in ("teacher", "student", "teacher"):
        results = measure_tasks(prepared, *pair[role], tokens_per_batch=1024)
        instances = [one for name in prepared.names for one in prepared.loaded[name]["tasks"][name].instances]
        seen.append((results, [instance.args for instance in instances]))
    assert seen[0] == seen[2]
    assert seen[0][1] == seen[1][1]
    assert seen[0][0] != seen[1][0]


def test_progress_rises_to_the_end(pair, prepared):
    told = []
    measure_tasks(
        prepared, *pair["student"], tokens_per_batch=1024, on_progress=lambda *steps: told.append(steps)
    )
    done = [steps[0] for steps in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    assert len(told) > 4


def test_no_tasks_at_all(pair, english_documents):
    with prepared_tasks(english_documents, EvaluationSettings(tasks=())) as tasks:
        assert measure_tasks(tasks, *pair["student"], tokens_per_batch=1024) == ()


def test_a_model_without_a_start_token(bare_tokenizer, make_llama, prepared):
    model = make_llama(len(bare_tokenizer))
    context, continuation = "Return a new", " list"
    before, whole = ids_of(bare_tokenizer, context), ids_of(bare_tokenizer, context + continuation)
    with torch.no_grad():
        log_probs_TV = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(float(log_probs_TV[k - 1, whole[k]]) for k in range(len(before), len(whole)))
    assert ask(model, bare_tokenizer, [(context, continuation)])[0][0] == pytest.approx(expected, rel=1e-5)
    assert bare_tokenizer.pad_token_id is None  # the library would have given it one

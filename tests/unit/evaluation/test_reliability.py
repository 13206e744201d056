"""The bins against a loop over tokens, and the error against the bins."""

from __future__ import annotations

import pytest
import torch

from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.reliability import NUM_CONFIDENCE_BINS, ConfidenceTally


@pytest.fixture(scope="module")
def measured(llama, start_tokenizer, sentences):
    return bits_per_byte(llama, start_tokenizer, sentences, max_length=128, stride=64, batch_size=3)


def test_bins_equal_a_loop_over_tokens(measured, llama, start_tokenizer, sentences):
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_CONFIDENCE_BINS)]
    for text in sentences:
        ids = [start_tokenizer.bos_token_id, *start_tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            probabilities = llama(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
        for place in range(1, len(ids)):
            confidence, best = probabilities[place - 1].max(-1)
            which = next(b for b in range(15) if float(confidence) < (b + 1) / 15 or b == 14)
            bins[which].append((float(confidence), int(best) == ids[place]))
    found = measured.reliability
    assert found.counts == tuple(map(len, bins))
    assert len([count for count in found.counts if count]) > 5
    for place, tokens in enumerate(bins):
        if not tokens:
            assert found.accuracy[place] is None
            assert found.mean_confidence[place] is None
            continue
        assert found.accuracy[place] == pytest.approx(sum(right for _, right in tokens) / len(tokens))
        mean = sum(confidence for confidence, _ in tokens) / len(tokens)
        assert found.mean_confidence[place] == pytest.approx(mean, rel=1e-5)


def test_the_error_and_the_accuracy_follow_from_the_bins(measured):
    found = measured.reliability
    filled = [place for place, count in enumerate(found.counts) if count]
    assert sum(found.counts) == measured.num_tokens
    gaps = [found.counts[p] * abs(found.accuracy[p] - found.mean_confidence[p]) for p in filled]
    assert measured.expected_calibration_error == pytest.approx(sum(gaps) / measured.num_tokens)
    right = sum(found.counts[p] * found.accuracy[p] for p in filled)
    assert measured.accuracy == pytest.approx(right / measured.num_tokens)


def test_edges_belong_to_the_bin_above_and_certainty_to_the_last():
    import numpy as np

    tally = ConfidenceTally()
    tally.add(np.array([0.0, 0.2, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert [place for place, count in enumerate(tally.reliability.counts) if count] == [0, 3, 14]
    assert tally.error == pytest.approx((0.0 + 0.8 + 0.0) / 3)

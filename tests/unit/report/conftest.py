"""Everything a report can show, made by hand or by the real parts on tiny material."""

from __future__ import annotations

import math

import pytest

BITS = {"untouched": 2.331, "text_only": 2.281, "truncate": 2.591, "distilled": 2.117, "teacher": 1.540}


@pytest.fixture(scope="session")
def evaluation(make_evaluation):
    return make_evaluation(**BITS)


@pytest.fixture(scope="session")
def worse_evaluation(make_evaluation):
    return make_evaluation(**{**BITS, "distilled": 2.4})


@pytest.fixture(scope="session")
def histories():
    def history(final: float, has_divergence: bool):
        lines = []
        for step in range(1, 41):
            metrics = {"loss": 3.0, "cross_entropy": 3 + 2 * math.exp(-step / 10)}
            if has_divergence:
                metrics["forward_kl"] = 1 + math.exp(-step / 10)
            if step % 10 == 0:
                metrics["held_out/bits_per_byte"] = final + math.exp(-step / 10)
            lines.append({"step": step, "tokens": step * 20_000, "time": float(step), "metrics": metrics})
        return lines

    return {"distilled": history(2.1, True), "text_only": history(2.28, False)}


@pytest.fixture(scope="session")
def corpus_report():
    from distillation.corpus.checks import ContractCheck
    from distillation.corpus.corpus import CorpusReport

    return CorpusReport(
        source="documentation of this installation",
        source_kind="documentation",
        fallback_reasons=("hub <Salesforce/wikitext>: no answer within 4 s",),
        num_documents_read=400,
        num_short_dropped=3,
        num_duplicates_dropped=2,
        num_contaminated_dropped=1,
        num_train_documents=354,
        num_held_out_documents=40,
        train_bytes=900_000,
        held_out_bytes=90_000,
        duplicate_share=0.005,
        leaked_share=0.02,
        unknown_shares={"student": 0.0},
        train_fingerprint="a" * 16,
        held_out_fingerprint="5d41402abc4b2a76",
        checks=(
            ContractCheck(
                name="duplicate_share",
                observed=0.005,
                limit="<= 0.1",
                success=True,
                setting="corpus.contract.max_duplicate_share",
            ),
        ),
    )

"""The data contract: a Great Expectations suite that a source must satisfy to be accepted.

Documents: enough of them in both parts, with text, of a sensible length, valid UTF-8 without NUL characters.
The source: not too many repeats. The split: no held-out document stands in training, as a whole or in long
n-grams. The tokenizers: (almost) no unknown tokens, and (almost) all held-out documents spelled as a whole;
the others are left out. Each expectation carries the setting that holds its limit, so that a refusal says
what to change.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.config import ContractSettings
from distillation.corpus.checks import ContractCheck, ContractResult
from distillation.corpus.contract_page import render_contract_page
from distillation.corpus.statistics import HELD_OUT, TRAIN, CorpusStatistics
from distillation.quiet import at_level

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Term:
    """An expectation with its name, its limit in words, and the setting that holds the limit."""

    name: str
    limit: str
    setting: str
    expectation: Any


def check_contract(
    statistics: CorpusStatistics, settings: ContractSettings, title: str
) -> tuple[ContractResult, str]:
    """Validate a corpus, and return the result with its HTML page.

    Args:
        statistics: figures of every document and of the whole.
        settings: the limits.
        title: name of the source, for the page.
    """
    frame = statistics.documents.assign(duplicate_share=statistics.duplicate_share)
    frame = frame.assign(**{_column(name): share for name, share in statistics.unknown_shares.items()})
    frame = frame.assign(**{_left_out(what): share for what, share in statistics.left_out_shares.items()})
    with at_level(logging.WARNING, "great_expectations"):  # it floods with INFO
        terms = [
            *_count_terms(settings),
            *_text_terms(settings),
            *_left_out_terms(settings, statistics.left_out_shares),
            *_split_terms(settings),
            *_token_terms(settings, statistics.unknown_shares),
        ]
        result = _validate(frame, terms)
        page = render_contract_page(result, title)
    checks = tuple(_check(term, outcome) for term, outcome in zip(terms, result.results, strict=True))
    return ContractResult(success=bool(result.success), checks=checks), page


def _left_out(what: str) -> str:
    return f"left_out_{what}_share"


def _column(tokenizer_name: str) -> str:
    return f"unknown_share_{tokenizer_name}"


def _count_terms(settings: ContractSettings) -> list[_Term]:
    from great_expectations.expectations import ExpectTableRowCountToBeBetween
    from great_expectations.expectations.row_conditions import Column

    terms = []
    for part, words, setting in (
        (TRAIN, "training", "min_documents"),
        (HELD_OUT, "held-out", "min_held_out_documents"),
    ):
        limit = getattr(settings, setting)
        expectation = ExpectTableRowCountToBeBetween(
            min_value=limit,
            row_condition=Column("part") == part,
            description=f"At least {limit} {words} documents",
        )
        terms.append(_Term(f"num_{part}_documents", f">= {limit}", f"corpus.contract.{setting}", expectation))
    return terms


def _text_terms(settings: ContractSettings) -> list[_Term]:
    from great_expectations import expectations as gxe

    median, empty = settings.min_median_characters, settings.max_empty_share
    return [
        _Term(
            "median_characters",
            f">= {median}",
            "corpus.contract.min_median_characters",
            gxe.ExpectColumnMedianToBeBetween(
                column="num_characters",
                min_value=median,
                description=f"The median document has at least {median} characters",
            ),
        ),
        _Term(
            "empty_documents_share",
            f"<= {empty:g}",
            "corpus.contract.max_empty_share",
            gxe.ExpectColumnValuesToBeInSet(
                column="has_text",
                value_set=[1],
                mostly=1.0 - empty,
                description=f"At most {100 * empty:g} % of the documents have no text",
            ),
        ),
        _Term(
            "invalid_utf8_share",
            "0",
            "",
            gxe.ExpectColumnValuesToBeInSet(
                column="is_valid_utf8",
                value_set=[1],
                description="Every document can be written as UTF-8 (no lone surrogates)",
            ),
        ),
        _Term(
            "most_nul_characters",
            "0",
            "",
            gxe.ExpectColumnMaxToBeBetween(
                column="num_nuls", max_value=0, description="No document holds a NUL character"
            ),
        ),
        _at_most(
            "duplicate_share",
            "max_duplicate_share",
            settings.max_duplicate_share,
            "the source's documents repeat another one",
        ),
    ]


def _left_out_terms(settings: ContractSettings, shares: Mapping[str, float]) -> list[_Term]:
    words = {
        "documents": "documents",
        "files": "bytes of its files",
        "held_out": "held-out documents",
    }
    limit = settings.max_left_out_share
    return [
        _at_most(_left_out(what), "max_left_out_share", limit, f"the source's {words[what]} cannot be used")
        for what in shares
    ]


def _split_terms(settings: ContractSettings) -> list[_Term]:
    from great_expectations import expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    share, documents = settings.max_leaked_share, settings.max_leaking_documents_share
    held_out = Column("part") == HELD_OUT
    return [
        _Term(
            "held_out_in_train_share",
            "0",
            "",
            gxe.ExpectColumnValuesToBeInSet(
                column="is_in_train",
                value_set=[0],
                row_condition=held_out,
                description="No held-out document is a training document",
            ),
        ),
        _Term(
            "leaking_documents_share",
            f"<= {documents:g}",
            "corpus.contract.max_leaking_documents_share",
            gxe.ExpectColumnValuesToBeBetween(
                column="leaked_share",
                max_value=share,
                mostly=1.0 - documents,
                row_condition=held_out,
                description=f"At most {100 * documents:g} % of the held-out documents share more than "
                f"{100 * share:g} % of their long n-grams with training documents",
            ),
        ),
    ]


def _token_terms(settings: ContractSettings, shares: Mapping[str, float]) -> list[_Term]:
    limit = settings.max_unknown_share
    return [
        _at_most(
            _column(name), "max_unknown_share", limit, f"the {name} tokens stand for text it cannot spell"
        )
        for name in shares
    ]


def _at_most(column: str, setting: str, limit: float, words: str) -> _Term:
    """Return the term that the largest value of `column` is a share up to `limit` of what `words` say."""
    from great_expectations.expectations import ExpectColumnMaxToBeBetween

    expectation = ExpectColumnMaxToBeBetween(
        column=column, max_value=limit, description=f"At most {100 * limit:g} % of {words}"
    )
    return _Term(column, f"<= {limit:g}", f"corpus.contract.{setting}", expectation)


def _validate(frame: pd.DataFrame, terms: list[_Term]) -> Any:
    """Run the suite in a context that lives in memory only, and return its validation result."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    # The default ephemeral context leaves an empty folder behind for a docs site that nobody reads.
    configuration = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=configuration)
    asset = context.data_sources.add_pandas("corpus").add_dataframe_asset("documents")
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name="data_contract"))
    for term in terms:
        suite.add_expectation(term.expectation)
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="data_contract", data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name="data_contract", validation_definitions=[definition], result_format="SUMMARY")
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    (result,) = outcome.run_results.values()
    for term, one in zip(terms, result.results, strict=True):
        if one.exception_info.get("raised_exception"):
            raise RuntimeError(f"{term.name}: {one.exception_info['exception_message']}")
        # The library's renderers take Python's numbers alone.
        one.result = _plain(one.result)
    return result


def _check(term: _Term, outcome: Any) -> ContractCheck:
    result = outcome.result
    if "observed_value" in result:
        observed = result["observed_value"]
    else:
        num_looked_at = result["element_count"] - result["missing_count"]
        observed = result["unexpected_count"] / num_looked_at if num_looked_at else None
    return ContractCheck(
        name=term.name,
        observed=observed,
        limit=term.limit,
        success=bool(outcome.success),
        setting=term.setting,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value

"""The audit's page: slices, causes and figures say what the audit says."""

from __future__ import annotations

import html
import re

from distillation.audit.coverage import BEYOND, AlignerCoverage
from distillation.audit.page import audit_page, audit_summary
from distillation.report.words import percent

NAMES = {"whitespace": "white space", "common": "digits and signs"}


def test_slices_are_in_table_and_figures(audit):
    page = html.unescape(audit_page(audit)).replace("\xa0", " ")
    corpus = audit.corpus
    rows = re.findall(r'<th scope="row">([^<]*)</th>((?:<td>[^<]*</td>)+)', page)
    assert len(rows) == 1 + len(corpus.kinds) + len(corpus.scripts)
    cells = {name: re.findall(r"<td>([^<]*)</td>", row) for name, row in rows}
    assert cells["all text"][1] == percent(corpus.coverage["prefix"].share_with_target, 1).replace(
        "\xa0", " "
    )
    for name, one in corpus.kinds.items():
        shares = [one.share_of_positions]
        shares += [one.coverage[key].share_with_target for key in ("prefix", "shared", "projection")]
        shares += [one.coverage["truncate"].share_sound, one.retained_shared]
        shown = NAMES.get(name, name)
        assert cells[shown] == [percent(share, 1).replace("\xa0", " ") for share in shares]
        share = (
            percent(one.share_of_positions).replace("\xa0", " ") if one.share_of_positions > 0.01 else "< 1 %"
        )
        assert f"{shown} ({share})</text>" in page
    for aligner in ("prefix", "shared", "projection", "truncate"):
        assert f">{aligner}</text>" in page
    assert "share of the student's positions with a target</text>" in page
    assert not any("kinds" in name or "scripts" in name for name, _ in audit_summary(audit)["facts"])


def test_causes_are_told_by_aligner(audit):
    causes = dict(audit_summary(audit)["causes"])
    assert causes["prefix"] == "none"
    found = audit.corpus.coverage["shared"].causes_without_target
    for cause, share in found.items():
        assert causes.get(f"shared: {cause}") == (percent(share, 2) if share else None)
    lossy = AlignerCoverage(share_with_target=0.75, share_sound=0.75, causes_without_target={BEYOND: 0.25})
    corpus = audit.corpus.model_copy(update={"coverage": audit.corpus.coverage | {"prefix": lossy}})
    causes = dict(audit_summary(audit.model_copy(update={"corpus": corpus}))["causes"])
    assert causes[f"prefix: {BEYOND}"] == percent(0.25, 2)
    assert "prefix" not in causes


def test_rare_scripts_are_left_to_the_table(audit):
    one = next(iter(audit.corpus.scripts.values()))
    rare = one.model_copy(update={"num_positions": 1, "share_of_positions": 1e-5})
    corpus = audit.corpus.model_copy(update={"scripts": audit.corpus.scripts | {"Thai": rare}})
    page = audit_page(audit.model_copy(update={"corpus": corpus}))
    assert re.search(r'<th scope="row">Thai</th><td>&lt;\s0\.1\s%</td>', page)
    assert "Thai (" not in page


def test_without_texts(audit):
    page = audit_page(audit.model_copy(update={"corpus": None}))
    assert "By kind and script" not in page
    assert page.count("<svg") == 1

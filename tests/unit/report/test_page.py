"""The page stands alone, tells the truth first, escapes what others wrote, and fits a phone."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from distillation.audit.page import audit_page, audit_summary
from distillation.config import Settings
from distillation.report.page import report_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


@pytest.fixture(scope="module")
def page(evaluation, audit, corpus_report, histories):
    return report_page(evaluation, audit_summary(audit), (), corpus_report, histories, Settings())


def test_it_asks_no_host_for_anything(page, audit):
    for text in (page, audit_page(audit)):
        targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", text)
        assert all(target.startswith("#") for pair in targets for target in pair if target)
        assert "http:" not in text
        assert "https:" not in text
        assert "<script" not in text
        assert "@import" not in text
        assert "<link" not in text


def test_the_verdict_comes_first(page, worse_evaluation):
    assert re.search(r'<h1 class="better">The distilled student closes 22\s% of the gap', page)
    worse = report_page(worse_evaluation)
    assert re.search(r'<h1 class="worse">Distillation did harm: .* 5\.2\s% more bits per byte', worse)


def test_every_part_is_there(page):
    headings = ("Summary", "Figures", "By kind, script and source", "Token by token", "Training", "Samples")
    for heading in (*headings, "The two tokenizers", "Corpus", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 5 + 2 + 3 + 6  # comparison, groups, training, tokenizers
    assert "2.117" in page
    assert "Incomplete" not in page
    assert f"forward_kl: {Settings().objective.terms.forward_kl}" in page


def test_what_the_trainings_counted_is_shown(evaluation):
    counted = {"steps": 1200.0, "best_step": 900.0, "skipped_steps": 2.0}
    trainings = {
        "distilled": counted | {"targets": 45_000.0, "foretold_targets": 50_000.0},
        "text_only": counted | {"targets": 0.0, "foretold_targets": 0.0, "skipped_steps": 0.0},
        "truncate": {"steps": 1200.0},  # of a job from before it was counted
    }
    page = report_page(evaluation, trainings=trainings)
    cells = {
        name: re.findall("<td>(.*?)</td>", row)
        for name, row in re.findall(r'<th scope="row">([^<]*)</th>((?:<td>[^<]*</td>){6})</tr>', page)
    }
    assert ["1,200", "900", "45,000", "50,000", "90.0\u00a0%", "2"] in cells.values()
    assert ["1,200", "900", "–", "–", "–", "0"] in cells.values()
    assert ["1,200", "–", "–", "–", "–", "–"] in cells.values()


def test_only_the_evaluation_is_needed(evaluation):
    page = report_page(evaluation)
    assert "<h2>Corpus</h2>" not in page
    assert page.count("<svg") == 5 + 2


def test_results_from_before_the_suite_still_have_a_page(evaluation):
    """Reliability, groups, passages, first token and memory came later: what is not there is left out."""
    content = evaluation.model_dump()
    for name in ("document_labels", "passages"):
        del content[name]
    for result in content["results"].values():
        del result["reliability"], result["speed"]["first_token_ms"], result["speed"]["peak_memory_bytes"]
    page = report_page(type(evaluation).model_validate(content))
    assert page.count("<svg") == 4
    assert "Token by token" not in page
    assert "By kind" not in page


def test_first_token_and_peak_memory_are_in_the_table(page):
    row = re.search(r'<th scope="row">teacher</th><td>21\sk</td>.*?</tr>', page, re.DOTALL).group()
    assert "21.4\u00a0ms" in row
    assert "62.0\u00a0MB" in row


def test_what_is_missing_is_said(make_evaluation):
    page = report_page(make_evaluation(text_only=2.2, distilled=2.1, teacher=1.5))
    assert "Incomplete comparison." in page
    assert "model untouched was not evaluated" in page


def test_text_of_models_and_sources_is_escaped(make_evaluation, corpus_report):
    hostile = '</pre><script>alert("x")</script>{{ 7 * 7 }}<img src=x onerror=alert(1)>'
    evaluation = make_evaluation(continuation=hostile, text_only=2.2, distilled=2.1, teacher=1.5)
    page = report_page(evaluation, corpus_report=corpus_report, title="<b>title</b>")
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "<b>title" not in page
    assert "hub &lt;Salesforce/wikitext&gt;" in page


def test_same_input_same_page(page, evaluation, audit, corpus_report, histories):
    assert report_page(evaluation, audit_summary(audit), (), corpus_report, histories, Settings()) == page


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert not [name for name, count in ids.items() if count > 1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_the_probes_are_shown(evaluation, tiny_student_dir):
    from distillation.config import ModelReference
    from distillation.models.inspect.probe import probe_model

    probe = probe_model(ModelReference(path=str(tiny_student_dir)), "student", device="cpu")
    page = report_page(evaluation, probes=[probe])
    assert "Models and machine" in page
    assert "llama" in page


def test_audit_page(audit):
    page = audit_page(audit, title="A & B")
    assert "<title>A &amp; B</title>" in page
    assert page.count("<svg") == 6
    assert f"{audit.num_equal_ids:,} of {audit.num_compared_ids:,} ids mean the same" in page
    without_texts = audit.model_copy(update={"corpus": None})
    assert audit_page(without_texts).count("<svg") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with")
def test_it_fits_a_phone(page, tmp_path):
    """In a frame of 390 pixels nothing of the page is wider than the frame."""
    frame = (
        f'<iframe id="f" style="width:390px;height:2000px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        "<script>f.onload = () => { const page = f.contentDocument;"
        "const figure = page.querySelector('svg').getBoundingClientRect().width;"
        "document.title = `width ${page.body.scrollWidth} figure ${Math.round(figure)}`; };</script>"
    )
    file = tmp_path / "frame.html"
    file.write_text(frame, encoding="utf-8")
    output = _chromium(file, tmp_path)
    width, figure = map(int, re.search(r"<title>width (\d+) figure (\d+)</title>", output).groups())
    assert width <= 390
    assert 300 < figure <= 390


def _chromium(file: Path, folder: Path) -> str:
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom"
    )
    command = [CHROMIUM, *options.split(), f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

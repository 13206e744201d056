"""The report of a comparison in a real browser: light and dark, on a desk and in a hand."""

from __future__ import annotations

from typing import Any

import pytest
from browser import SCHEMES, WIDTHS, check_figures, luminance, needs_browser, visit
from browser import channels as channels_of

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(comparison: Any, comparison_settings: Any, evaluation: Any, audit: Any, histories: Any) -> str:
    from distillation.audit.page import audit_summary
    from distillation.report.comparison_page import comparison_drawings, comparison_page
    from distillation.report.page import sections

    logs = {"text_only": [histories["text_only"]] * 3, "prefix": [histories["distilled"]] * 3}
    chosen = sections(evaluation, audit_summary(audit), histories=histories)
    return comparison_page(
        comparison, comparison_drawings(comparison, logs), comparison_settings, chosen=chosen
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_drawn_and_nothing_is_asked_for(page, tmp_path, width, scheme):
    seen = visit(page, tmp_path, width=width, scheme=scheme)
    check_figures(seen, page, width)
    titles = [figure["title"] for figure in seen.found["figures"]]
    assert {"What the teacher's help is worth", "Bits per byte", "What it costs"} <= set(titles)
    assert (luminance(channels_of(seen.found["page"])) < 0.1) is (scheme == "dark")


def test_wider_letters_fit_too(page, tmp_path):
    """The layout is made with one font's widths; a browser shows another's, or rounds them to pixels."""
    wider = page.replace("</head>", "<style>svg text { letter-spacing: .35px }</style></head>")
    assert wider != page
    check_figures(visit(wider, tmp_path, width=390, scheme="light"), page, 390)

"""The contract's HTML page: Great Expectations' own tables in one file that asks no other host for anything.

The library's page template loads styles, scripts and images from half a dozen hosts. Its section renderer
does not, so the sections come from the library and the frame and the few styles from here.
"""

from __future__ import annotations

import html
import re
from typing import Any

from distillation.redaction import scrub

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
h5 { font: 600 .95rem ui-monospace, monospace; margin: 1.4rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .35rem .6rem;
         text-align: left; vertical-align: top; }
th { font-size: .8rem; }
th:first-child, td:first-child { width: 4rem; }
th:last-child, td:last-child { width: 14rem; }
.status { border-radius: .3rem; color: #fff; display: inline-block; font-weight: 600; padding: .1rem .6rem; }
.passed { background: #1a7f37; } .failed { background: #cf222e; }
.text-success::before { color: #1a7f37; content: "\\2714"; }
.text-danger::before { color: #cf222e; content: "\\2718"; }
"""
_OTHER_HOST = re.compile(
    r"<(script|link|img|iframe)\b[^>]*>(?:.*?</\1>)?|\s(?:href|src)=\"[^#\"][^\"]*\"", re.S
)


def render_contract_page(result: Any, title: str) -> str:
    """Return one self-contained HTML page.

    Args:
        result: Great Expectations' validation result, its numbers plain Python numbers.
        title: name of the source.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaSectionView

    # The first section repeats the status and dumps the library's internals; the heading below replaces it.
    sections = ValidationResultsPageRenderer().render(result).sections[1:]
    view = DefaultJinjaSectionView()
    body = "\n".join(
        view.render({"section": section.to_json_dict(), "section_loop": {"index": index}})
        for index, section in enumerate(sections, start=1)
    )
    num_passed = sum(bool(one.success) for one in result.results)
    status = "passed" if result.success else "failed"
    return scrub(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data contract</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Data contract</h1>\n"
        f'<p>{html.escape(title)} <span class="status {status}">{status}</span> '
        f"{num_passed} of {len(result.results)} expectations hold.</p>\n"
        f"{_OTHER_HOST.sub('', body)}\n</body>\n</html>\n"
    )

"""The report of a real evaluation in a real browser: light and dark, on a desk and in a hand."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the path")

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=10000 --enable-logging=stderr --v=0 "
    "--dump-dom --window-size=1280,2000"
)
SCHEMES = {"dark": 0, "light": 1}
"""As the browser numbers them."""
WIDTHS = (390, 1280)
PROBE = """
<script>
window.addEventListener("load", () => {
  const box = (element) => element.getBoundingClientRect();
  const style = (element) => getComputedStyle(element);
  const isDrawn = (one) => box(one).width + box(one).height > 0;
  const isWithin = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
  const size = (word) => {
    const turned = word.getScreenCTM();
    return parseFloat(style(word).fontSize) * Math.hypot(turned.a, turned.b);
  };
  const figures = [...document.querySelectorAll("svg")].map((svg) => ({
    title: svg.getAttribute("aria-label"), width: box(svg).width, height: box(svg).height,
    shapes: [...svg.querySelectorAll("path, use")].filter(isDrawn).length,
    words: [...svg.querySelectorAll("text")].map(size),
    outside: [...svg.querySelectorAll("text")].filter((word) => !isWithin(box(word), box(svg)))
      .map((word) => word.textContent),
  }));
  const stretch = document.querySelector(".passages .tmore4:not(.dmore4)");
  const before = stretch && style(stretch).backgroundColor;
  document.querySelector("#view-t")?.click();
  const result = {
    figures, before, after: stretch && style(stretch).backgroundColor,
    inner: innerWidth, scroll: document.documentElement.scrollWidth,
    is_dark: matchMedia("(prefers-color-scheme: dark)").matches,
    text: style(document.body).color, page: style(document.body).backgroundColor,
    card: document.querySelector(".passage") && style(document.querySelector(".passage")).backgroundColor,
    shades: ["more4", "less4"].map((name) => style(document.querySelector(`.legend .${name}`)
      ?? document.body).backgroundColor),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
  };
  parent.document.title = "probe " + JSON.stringify(result);
});
</script>
"""


@dataclass(frozen=True)
class Visit:
    """What a browser said of a page."""

    found: dict[str, Any]
    console: list[str]


def visit(page: str, folder: Path, *, width: int, scheme: str) -> Visit:
    """Open `page` from a file; narrower than a browser's window it stands in a frame of that width."""
    probed = page.replace("</body>", PROBE + "</body>")
    if width < 500:
        frame = f'<iframe style="width:{width}px;height:9000px;border:0" srcdoc="{html.escape(probed)}">'
        probed = f'<meta name="color-scheme" content="light dark">{frame}</iframe>'
    file = folder / "page.html"
    file.write_text(probed, encoding="utf-8")
    command = [
        str(BROWSER), *OPTIONS.split(), "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--user-data-dir={folder / 'profile'}", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>probe (.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Visit(json.loads(html.unescape(title.group(1))), console)


@pytest.fixture(scope="module")
def sure_student_dir(tiny_student_dir, tmp_path_factory) -> Path:
    """The tiny student with weights so large that it is sure of what is wrong."""
    import torch

    from distillation.config import ModelReference
    from distillation.models import load_model, load_tokenizer

    reference = ModelReference(path=str(tiny_student_dir))
    model = load_model(reference, "student", dtype="float32")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)
    directory = tmp_path_factory.mktemp("sure")
    model.save_pretrained(directory)
    load_tokenizer(reference, "student").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def evaluation(tiny_teacher_dir, tiny_student_dir, sure_student_dir, english_documents):
    from distillation.config import EvaluationSettings
    from distillation.evaluation import evaluate_models

    names = ("untouched", "text_only", "truncate", "distilled")
    return evaluate_models(
        dict.fromkeys(names, tiny_student_dir) | {"text_only": sure_student_dir},
        tiny_teacher_dir,
        english_documents[:16],
        EvaluationSettings(max_length=128, stride=96, num_new_tokens=12),
        held_out_fingerprint="0123456789abcdef",
        sources=["first"] * 8 + ["second"] * 8,
        device="cpu",
        show_progress=False,
    )


@pytest.fixture(scope="module")
def page(evaluation, tiny_teacher_dir, tiny_student_dir, english_documents):
    from distillation.alignment import audit_tokenizers
    from distillation.config import ModelReference, Settings
    from distillation.models import load_tokenizer
    from distillation.report import report_page

    teacher, student = (
        load_tokenizer(ModelReference(path=str(path)), "teacher")
        for path in (tiny_teacher_dir, tiny_student_dir)
    )
    audit = audit_tokenizers(teacher, student, english_documents[:8])
    history = [
        {"step": step, "tokens": 1000 * step, "time": 0.0, "metrics": {"cross_entropy": 5.0 / step}}
        for step in range(1, 20)
    ]
    return report_page(evaluation, audit, histories={"distilled": history}, settings=Settings())


def luminance(channels: list[float]) -> float:
    """Relative luminance of an sRGB colour, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def channels(colour: str, under: str | None = None) -> list[float]:
    """Red, green and blue, from 0 to 1, of a computed colour that may be see-through."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)]
    solid, opacity = [number / 255 for number in numbers[:3]], numbers[3] if len(numbers) > 3 else 1.0
    if under is None:
        return solid
    return [opacity * c + (1 - opacity) * b for c, b in zip(solid, channels(under), strict=True)]


def contrast(first: list[float], second: list[float]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_drawn_and_nothing_is_asked_for(page, tmp_path, width, scheme):
    seen = visit(page, tmp_path, width=width, scheme=scheme)
    found = seen.found
    assert seen.console == []
    assert found["requests"] == []
    assert found["inner"] == width
    assert found["scroll"] <= width  # no sideways scrolling of the page
    assert len(found["figures"]) == page.count("<svg") >= 14
    for figure in found["figures"]:
        assert 300 <= figure["width"] <= min(width, 600), figure["title"]
        assert figure["height"] > 80, figure["title"]
        assert figure["shapes"] > 5, figure["title"]
        assert len(figure["words"]) > 3, figure["title"]
        assert figure["outside"] == [], figure["title"]
        assert min(figure["words"]) >= 9.5, figure["title"]  # pixels of the font as it is shown
    assert found["is_dark"] is (scheme == "dark")
    assert (luminance(channels(found["page"])) < 0.1) is (scheme == "dark")
    assert contrast(channels(found["text"]), channels(found["page"])) > 7
    for shade in found["shades"]:
        assert contrast(channels(found["text"]), channels(shade, found["card"])) > 4.5
    assert channels(found["before"]) != channels(found["after"])  # the other student's colours


def test_the_view_is_of_real_text(page, evaluation, english_documents):
    assert evaluation.passages
    for passage in evaluation.passages:
        assert english_documents[passage.document].startswith(passage.text)
        assert set(passage.bits) == {"teacher", "distilled", "text_only"}


def test_the_browser_would_notice(tmp_path):
    """A figure without a size, a request, an error and a page too wide are all seen."""
    broken = (
        '<html><body style="color:#777;background:#888"><svg style="width:0;height:0"><path d="M0 0"/></svg>'
        '<img src="http://example.invalid/a.png"><div style="width:900px">.</div>'
        "<script>console.error('boo')</script></body></html>"
    )
    seen = visit(broken, tmp_path, width=390, scheme="light")
    assert any("boo" in line for line in seen.console)
    assert seen.found["requests"] == ["http://example.invalid/a.png"]
    assert seen.found["scroll"] > 390
    assert seen.found["figures"][0]["width"] == 0
    assert seen.found["figures"][0]["shapes"] == 0

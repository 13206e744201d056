"""A page in a headless browser: what it drew, what it asked for, what it complained of."""

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
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the path")

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


def check_figures(seen: Visit, page: str, width: int) -> None:
    """Check that nothing was asked for, that nothing sticks out, and that every figure can be read."""
    found = seen.found
    assert seen.console == []
    assert found["requests"] == []
    assert found["inner"] == width
    assert found["scroll"] <= width  # no sideways scrolling of the page
    assert len(found["figures"]) == page.count("<svg")
    for figure in found["figures"]:
        assert 300 <= figure["width"] <= min(width, 600), figure["title"]
        assert figure["height"] > 80, figure["title"]
        assert figure["shapes"] > 5, figure["title"]
        assert len(figure["words"]) > 3, figure["title"]
        assert figure["outside"] == [], figure["title"]
        assert min(figure["words"]) >= 9.5, figure["title"]  # pixels of the font as it is shown


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

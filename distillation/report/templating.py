"""The templates of the pages: everything is escaped unless this package drew it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from distillation.redaction import scrub
from distillation.report.figures import as_svg

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading."""

    name: str
    """Of its file, without a suffix."""
    title: str
    note: str
    figure: Figure


@cache
def environment() -> jinja2.Environment:
    """Return the template environment: escapes everything, and refuses a name that is not given."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("distillation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: str, **values: Any) -> str:
    """Return a whole page: a template of this package filled with `values`, without secrets."""
    return scrub(environment().get_template(template).render(**values))


def figure_entry(figure: Any, title: str, note: str = "") -> dict[str, Any]:
    """Return what the templates' `grid` shows: a drawing with its heading."""
    from markupsafe import Markup

    return {"title": title, "note": note, "svg": Markup(as_svg(figure, title))}

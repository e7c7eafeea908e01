"""What is around the page: Dask's frame or Bokeh's, and what fits it to dark and to narrow screens."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from bokeh.core.templates import get_env
from bokeh.events import DocumentReady
from bokeh.models import CustomJS, Div, LinearColorMapper

__all__ = ["HIDDEN", "NARROW", "attributes", "follow_scheme", "surround", "tell_when_hidden"]

NARROW: Final = """
@media (max-width: 820px) {
  :host { flex-direction: column !important; }
  .bk-Column { flex: none; width: auto; align-self: stretch; }
}
"""
"""A style sheet for rows and cards: on a narrow screen they stand one below the other."""

HIDDEN: Final = "hidden"
"""The tag of a page that nobody sees, as its tab is behind another one."""

_INSIDE: Final = """<style>{% raw %}CSS{% endraw %}</style>
<script>document.documentElement.lang = "en"</script><main>{{ super() }}</main>"""
_IN_DASK: Final = '{% extends "simple.html" %}{% block content %}INSIDE{% endblock %}'
_IN_BOKEH: Final = """{% extends "file.html.jinja" %}
{% block preamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}
{% block contents %}INSIDE{% endblock %}"""

_REPAINT: Final = """
const paint = () => {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--br-tile-ink").trim()
  if (ink) inks.palette = [ink, ...inks.palette.slice(1)]
  for (const figure of figures) figure.change.emit()
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint)
paint()
"""

_TELL_HIDDEN: Final = """
const tell = () => { root.tags = document.hidden ? [hidden] : [] }
document.addEventListener("visibilitychange", tell)
if (document.hidden) tell()
"""


def surround(doc: Any, extra: dict[str, Any], *, within_dask: bool = True) -> None:
    """Give *doc* the frame of Dask's own pages, or that of Bokeh, without links, where Dask has none.

    *extra* holds what the template of Dask's frame needs, *within_dask* says whether its pages are there.
    """
    inside = _INSIDE.replace("CSS", files("batchrun.dashboard").joinpath("frame.css").read_text("utf-8"))
    try:
        if not within_dask:
            raise ImportError("there are no pages of Dask to lead to")
        from distributed.dashboard.components.scheduler import BOKEH_THEME, env

        doc.theme = BOKEH_THEME
        doc.template = env.from_string(_IN_DASK.replace("INSIDE", inside))
        doc.template_variables.update(extra)
    except ImportError:
        doc.template = get_env().from_string(_IN_BOKEH.replace("INSIDE", inside))
        doc.template_variables.update({"prefix": extra.get("prefix", "/")})


def follow_scheme(doc: Any, inks: LinearColorMapper, figures: Sequence[Any]) -> None:
    """Let what is drawn on canvases of *doc* have the colours of the screen's scheme, and change with it.

    Axes and grids read the CSS when they are painted; texts on tiles cannot, so the first of *inks* is set.
    """
    doc.js_on_event(DocumentReady, CustomJS(args={"inks": inks, "figures": list(figures)}, code=_REPAINT))


def tell_when_hidden(doc: Any, root: Any) -> None:
    """Let *root* have the tag HIDDEN as long as the tab that shows *doc* is behind another one."""
    doc.js_on_event(DocumentReady, CustomJS(args={"root": root, "hidden": HIDDEN}, code=_TELL_HIDDEN))


def attributes(**named: str) -> dict[str, Any]:
    """Arguments that give a Bokeh model these HTML attributes, ``aria_label`` for ``aria-label``.

    None for versions of Bokeh that cannot do it: then a screen reader is told less, and all else is the same.
    """
    if "html_attributes" not in Div.properties():
        return {}
    return {"html_attributes": {name.replace("_", "-"): value for name, value in named.items()}}

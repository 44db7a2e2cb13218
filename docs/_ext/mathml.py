"""Formulas as MathML, which browsers draw by themselves: no script, no font, no network.

Docutils translates LaTeX; what it does not understand is a warning, so a strict build fails.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def translated(writer: Any, node: nodes.Element, *, block: bool) -> str:
    """The MathML of a node."""
    text = node.astext()
    try:
        return tex2mathml(text, as_block=block)
    except MathError as error:
        logger.warning("formula: %s in %s", error, text, location=node, type="math")
        return writer.encode(text)


def inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(translated(writer, node, block=False))
    raise nodes.SkipNode


def display(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="math">{translated(writer, node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

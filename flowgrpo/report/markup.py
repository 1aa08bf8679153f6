"""HTML and SVG by composition: what is not markup already is escaped, so a prompt can never become an element."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "img", "meta"})


class Html(str):
    """Text that is markup already and is inserted as it is."""

    __slots__ = ()


def text(value: object) -> Html:
    """Markup that shows `value`: markup stays, anything else is escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Markup of all parts in order, None left out."""
    return Html(between.join(text(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: the element's name.
        children: text (escaped) or `Html`; None is left out.
        attributes: a trailing underscore is dropped, inner ones become hyphens (`class_`, `stroke_width`); None and
            False leave the attribute out, True writes it without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def note(*parts: object) -> Html:
    """A quiet paragraph: what is missing, how something was computed."""
    return tag("p", *parts, class_="note")


def table(head: Iterable[object], rows: Iterable[Iterable[object]], caption: str, *, titled: bool = False) -> Html:
    """A table in its own scrolling container; a cell given as a `td` or `th` element is taken as it is.

    Args:
        head: column titles.
        rows: cells of each row; the first cell of a row heads it.
        caption: what the table shows.
        titled: a heading above says so already: the caption is for screen readers only.
    """
    body = (tag("tr", *(_cell(cell, first=index == 0) for index, cell in enumerate(row))) for row in rows)
    return tag(
        "div",
        tag(
            "table",
            None if titled else tag("caption", caption),
            tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head))),
            tag("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _cell(cell: object, *, first: bool) -> Html:
    if isinstance(cell, Html) and cell.startswith(("<td", "<th")):
        return cell
    return tag("th", cell, scope="row") if first else tag("td", cell)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'

"""HTML and SVG that cannot be broken out of: every text is escaped unless it was made here."""

from html import escape

from .report_words import plain

__all__ = ["Child", "Markup", "tag"]

_VOID = frozenset({"meta"})


class Markup(str):
    """Text that is markup already; only `tag` makes it."""

    __slots__ = ()


Child = Markup | str | None


def tag(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """One element. Attributes: a trailing `_` is dropped, other `_` become `-`; None leaves one out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(child if isinstance(child, Markup) else escape(plain(child)) for child in children if child)
    return Markup(f"<{name}{words}>" if name in _VOID and not inner else f"<{name}{words}>{inner}</{name}>")


def _text(value: str | float) -> str:
    return plain(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")

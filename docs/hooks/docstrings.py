"""Docstrings are read as plain text, too, in help() and --help: what only Markdown would see in them is none."""

import re

import griffe

# Code stays, as do *emphasis* of words and the *args of a section; <class> is no tag, * is no emphasis, [i][j] no link.
_TEXT = re.compile(
    r"(?P<code>`[^`]*`)|(?P<emphasis>(?<!\w)\*\w[^*\n]*\w\*(?!\w))|(?P<argument>^ *\*{1,2}\w+:)"
    r"|<(?P<tag>\w+)>|(?P<star>\*)|(?P<link>\]\[)",
    re.MULTILINE,
)


def escaped(text: str) -> str:
    """The Markdown of a text."""
    return _TEXT.sub(_escape, text)


def _escape(match: re.Match) -> str:
    if match["tag"]:
        return f"&lt;{match['tag']}&gt;"
    return {"star": r"\*", "link": r"]\["}.get(match.lastgroup, match[0])


class PlainText(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = escaped(obj.docstring.value)

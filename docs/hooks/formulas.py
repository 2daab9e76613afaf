"""Formulas in TeX become MathML while the pages are built: browsers draw it themselves, without a script.

What they need is a font with mathematical spacing, which not every phone has: STIX Two, which ziamath brings, goes to
the site.
"""

import html
import importlib.util
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

# What pymdownx.arithmatex makes of $...$ and $$...$$.
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
# The sign of a derivative is raised already: as a superscript it would be tiny.
_PRIME = re.compile(r"<msup>((?:(?!<msup>).)*?)<mi>(&#x0203[23];)</mi></msup>")
# After another sign a minus belongs to its number.
_MINUS = re.compile(r"(<mo[^>]*>&#x0(?:003D|0028|002C|223C|2248|2264);</mo>)<mo>&#x02212;</mo>")
_FONT = "STIXTwoMath-Regular.ttf"


def on_files(files, config, **_):
    """Adds the font to the site."""
    package = Path(importlib.util.find_spec("ziamath").origin).parent
    files.append(File.generated(config, f"assets/{_FONT}", abs_src_path=str(package / "fonts" / _FONT)))


def on_page_content(content: str, page, **_) -> str:
    """Replaces the formulas of a page."""
    return _FORMULA.sub(lambda match: _mathml(match, page.file.src_path), content)


def _mathml(match: re.Match, page: str) -> str:
    tex = html.unescape(match["tex"]).strip()
    try:
        mathml = convert(tex, display="block" if match["open"] == "[" else "inline")
        if unknown := re.search(r"\\\w+", mathml):  # it is taken for a name
            raise ValueError(unknown[0])
    except Exception as error:
        raise ValueError(f"{page}: {tex}: is not TeX that latex2mathml knows ({error!r})") from error
    mathml = mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # ~ is a relation
    mathml = mathml.replace("<mo>&#x0002E;</mo>", "<mtext>.</mtext>")  # the end of a sentence
    mathml = _MINUS.sub(r'\1<mo form="prefix">&#x02212;</mo>', mathml)
    mathml = _PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', mathml)
    return mathml if match["open"] == "(" else f'<div class="formula">{mathml}</div>'

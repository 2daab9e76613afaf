"""README.md and docs/*.md as the tests see them: code that is run, and commands that are parsed."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))

# What is run in one namespace. In the README every block stands for itself. A tutorial is one story, or, where it has
# several that have only their beginning in common, one a section.
_ONE_STORY, _ONE_A_SECTION = ("docs/own_stepper.md", "docs/own_network.md"), ("docs/own_model.md", "docs/ode.md")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(markdown: str) -> list[str]:
    """The Python in it."""
    return re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)


def stories(page: str) -> dict[str, list[str]]:
    """The blocks of a page that are run one after another, by a name for each such story."""
    if page == "docs/use.md":  # its run is in a folder: tests/test_use.py
        return {}
    if page in _ONE_STORY:
        return {page: blocks(text(page))}
    if page in _ONE_A_SECTION:
        beginning, *sections = re.split(r"^## ", text(page), flags=re.MULTILINE)
        titles = [section.partition("\n")[0] for section in sections]
        found = {f"{page}: {title}": blocks(section) for title, section in zip(titles, sections, strict=True)}
        return {name: blocks(beginning) + code for name, code in found.items() if code}
    return {f"{page}: {n}": [block] for n, block in enumerate(blocks(text(page)), start=1)}


def commands(program: str, pages: tuple[str, ...] = PAGES) -> list[str]:
    """What follows the program in all commands, such as "train.py" or "lmjax", without comments."""
    said = "\n".join(map(text, pages)).replace("`", "\n")
    before = rf"(?:python |RUN=\"|^(?=lmjax )){re.escape(program)} "
    found = re.findall(rf"{before}([^\n\"#]*(?:\"[^\n\"]*\"[^\n\"#]*)*)", said, re.MULTILINE)
    return list(dict.fromkeys(command.strip() for command in found))

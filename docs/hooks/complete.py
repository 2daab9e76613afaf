"""The build fails if a public name is missing in the reference."""

import ast
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

ROOT = Path(__file__).parent.parent.parent
# Modules without an __all__ whose functions and classes are public all the same, unless they begin with _.
OPEN = (
    "config", "errors", "export", "integrate", "optimizers", "recipes", "registry", "reversible", "runtime",
    "schedules", "weights",
)  # fmt: skip


def public_names(root: Path = ROOT) -> dict[str, list[str]]:
    """Of each public module its public names, read from its text."""
    names = {}
    for path in sorted((root / "lmjax").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        body = ast.parse(path.read_text()).body
        stated = [
            ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        if stated:
            names[module] = list(stated[0])
        elif module.removeprefix("lmjax.") in OPEN:
            defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            names[module] = [name for name in defined if not name.startswith("_")]
    return names


def missing(documented: set[str], names: dict[str, list[str]]) -> list[str]:
    """The public names that are not documented, as dotted paths. A module is documented by its own names."""
    return [
        f"{module}.{name}"
        for module in names
        for name in names[module]
        # A function may have the name of its module, `runge_kutta.runge_kutta`: then that is how the reference has it.
        if not {f"{module}.{name}", f"{module}.{name}.{name}"} & documented and f"{module}.{name}" not in names
    ]


@event_priority(-50)  # once mkdocstrings has rendered everything
def on_env(env, config, **_):
    documented = set(config.plugins["mkdocstrings"].handlers.inventory)
    if left_out := missing(documented, public_names()):
        raise PluginError(f"missing in docs/api: {', '.join(left_out)}")

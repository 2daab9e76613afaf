"""The published claims, run again: tables of runs from paired seeds, what they cost, and what they come to."""

from lmjax.results.reproduce.cost import ACCELERATORS, Accelerator, hours
from lmjax.results.reproduce.results import collect, errors, export
from lmjax.results.reproduce.runs import make
from lmjax.results.reproduce.tables import TABLES, Images, Table, table
from lmjax.results.reproduce.writing import markdown

__all__ = [
    "ACCELERATORS",
    "TABLES",
    "Accelerator",
    "Images",
    "Table",
    "collect",
    "errors",
    "export",
    "hours",
    "make",
    "markdown",
    "table",
]

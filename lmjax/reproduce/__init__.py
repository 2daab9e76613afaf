"""The published claims, run again: tables of runs from paired seeds, what they cost, and what they come to."""

from lmjax.reproduce.cost import ACCELERATORS, Accelerator, hours
from lmjax.reproduce.results import Difference, collect, difference, errors, export
from lmjax.reproduce.runs import make
from lmjax.reproduce.tables import TABLES, Images, Table, table
from lmjax.reproduce.writing import markdown

__all__ = [
    "ACCELERATORS",
    "TABLES",
    "Accelerator",
    "Difference",
    "Images",
    "Table",
    "collect",
    "difference",
    "errors",
    "export",
    "hours",
    "make",
    "markdown",
    "table",
]

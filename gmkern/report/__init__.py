"""Reports: one HTML file that needs nothing beside it, and its pictures as PNG files.

Needs the extra "cli": ``pip install 'gmkern[cli]'``.
"""

from gmkern.report.page import Cell, Page, Picture, Section, Table, write
from gmkern.report.pictures import Bars, Drawn, bars, histograms, intervals, lines, over_time, pairs, paths

__all__ = [
    "Bars",
    "Cell",
    "Drawn",
    "Page",
    "Picture",
    "Section",
    "Table",
    "bars",
    "histograms",
    "intervals",
    "lines",
    "over_time",
    "pairs",
    "paths",
    "write",
]

"""Which versions of everything this package works with: what is run (trackers/), and what came out (results/)."""

from matrix.cells import Cell, cells, needed
from matrix.results import Result, holds, results

__all__ = ["Cell", "Result", "cells", "holds", "needed", "results"]

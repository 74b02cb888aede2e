"""The main job on real data: train two small models on digits, draw from them with the kernels, judge the draws."""

from gmkern.demo.run import FULL, QUICK, Result, Size, run

__all__ = ["FULL", "QUICK", "Result", "Size", "run"]

"""The main job on real data: train seven generators on digits, draw from them, judge what they drew."""

from gmkern.demo.run import FULL, QUICK, Result, Size, run

__all__ = ["FULL", "QUICK", "Result", "Size", "run"]

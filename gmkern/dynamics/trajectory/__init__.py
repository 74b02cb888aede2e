"""Trajectories: many steps of many systems in one call."""

from gmkern.dynamics.trajectory.api import Trajectory, simulate
from gmkern.dynamics.trajectory.path import PathLogProb, path_log_prob

__all__ = ["PathLogProb", "Trajectory", "path_log_prob", "simulate"]

"""Trajectories: many steps of many systems in one call."""

from gmkern.dynamics.trajectory.api import Trajectory, simulate

__all__ = ["Trajectory", "simulate"]

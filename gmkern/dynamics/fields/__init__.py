"""Force fields: what pulls on the atoms."""

from gmkern.dynamics.fields.pairs import WCA, Coulomb, DoubleWell, LennardJones, Morse, SoftSphere
from gmkern.dynamics.fields.terms import HARMONIC, LEARNED, Packed, Potential, Sum, Term, packed
from gmkern.dynamics.fields.traps import Harmonic, HarmonicBonds
from gmkern.dynamics.fields.vector import VectorField

__all__ = [
    "HARMONIC",
    "LEARNED",
    "WCA",
    "Coulomb",
    "DoubleWell",
    "Harmonic",
    "HarmonicBonds",
    "LennardJones",
    "Morse",
    "Packed",
    "Potential",
    "SoftSphere",
    "Sum",
    "Term",
    "VectorField",
    "packed",
]

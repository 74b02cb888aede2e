"""Other libraries beside gmkern, each in a module of its own that needs its package: ``gmkern.integrations.ase``."""

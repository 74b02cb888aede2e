"""Tests; helpers beside them are imported as tests.<path>.<module>."""

"""GMKERN_ISA chooses the instruction set, and says so when it cannot."""

from __future__ import annotations

import pytest
import torch

import gmkern
from gmkern._backend import ISAS
from gmkern.testing import run_isa, supported_isas

DRAW = """
import gmkern
out = {"isa": gmkern.info().isa, "isas": gmkern.info().isas,
       "noise": gmkern.random.normal(7, [3, 1, 2], 5, 1001)}
"""


def test_named_set_is_the_one_in_use_and_noise_keeps_its_bits(isa):
    found = run_isa(isa, DRAW)
    assert found["isa"] == isa
    assert found["isas"] == supported_isas()
    reference = gmkern.random.normal(7, [3, 1, 2], 5, 1001, backend="reference")
    assert torch.equal(found["noise"], reference)
    assert not torch.equal(found["noise"], gmkern.random.normal(8, [3, 1, 2], 5, 1001))  # the comparison can fail


@pytest.mark.parametrize("unset", [None, ""])
def test_without_a_name_the_best_set_is_used(unset):
    assert run_isa(unset, DRAW)["isa"] == supported_isas()[-1]


@pytest.mark.parametrize("name", ["sse9", "AVX2"])
def test_unknown_set_is_a_clear_error_and_no_crash(name):
    with pytest.raises(RuntimeError) as caught:
        run_isa(name, DRAW)
    text = str(caught.value)
    assert "exit status 1" in text  # an exception, not a signal
    assert f"GMKERN_ISA: got {name}; takes baseline, avx2 or avx512" in text


@pytest.mark.skipif(supported_isas() == ISAS, reason="this processor has every set")
def test_set_that_the_processor_lacks_is_a_clear_error():
    with pytest.raises(RuntimeError, match="which this processor lacks; takes up to"):
        run_isa(ISAS[-1], DRAW)


def test_every_documented_set_is_named():
    assert ISAS == ("baseline", "avx2", "avx512")
    assert set(supported_isas()) <= set(ISAS)
    assert gmkern.info().isa in supported_isas()

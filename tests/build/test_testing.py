"""gmkern.testing itself: its tolerances hold and are not slack, and its comparisons see what they should."""

from __future__ import annotations

import math

import pytest
import torch

from gmkern.testing import relative_error, run_isa, tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 100, 10_000])
def test_tolerance_is_the_formula(dtype, n):
    narrow = dtype in (torch.bfloat16, torch.float16)
    unit = (2.0**-24) if narrow or dtype == torch.float32 else 2.0**-53
    own = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 0.0)
    assert tolerance(dtype, n) == pytest.approx(8 * math.sqrt(n) * unit + own, rel=1e-12)


def test_tolerance_holds_for_the_worst_order_of_a_sum(generator):
    """One term after another in fp32, which no kernel does, stays within; one in fp16 does not."""
    terms = torch.rand(20_000, generator=generator)
    truth = terms.double().sum()
    one_by_one = torch.cumsum(terms.double(), 0).float()  # each prefix rounded once
    total = torch.zeros(())
    for term in terms:
        total = total + term
    assert one_by_one[-1].double() == pytest.approx(float(truth), rel=tolerance(torch.float32))
    assert relative_error(total, truth) < tolerance(torch.float32, len(terms))
    assert relative_error(terms.half().sum(dtype=torch.float16), truth) > tolerance(torch.float32, len(terms))


def test_relative_error_sees_numbers_infinities_and_nans():
    truth = torch.tensor([1.0, -2.0, math.inf, math.nan])
    assert relative_error(truth, truth) == 0.0
    assert relative_error(torch.tensor([1.0, -2.5, math.inf, math.nan]), truth) == 0.25
    assert relative_error(torch.tensor([1.0, -2.0, -math.inf, math.nan]), truth) == math.inf
    assert relative_error(torch.tensor([1.0, -2.0, math.inf, 3.0]), truth) == math.inf
    assert relative_error(torch.tensor([math.nan, -2.0, math.inf, math.nan]), truth) == math.inf
    assert relative_error(torch.tensor([1.0]), torch.tensor([2.0]), magnitude=10.0) == pytest.approx(0.1)
    with pytest.raises(AssertionError, match="shape"):
        relative_error(truth, truth[:2])


def test_run_isa_carries_tensors_in_and_out_and_shows_failures():
    x = torch.arange(4, dtype=torch.bfloat16)
    found = run_isa(None, "out = {'double': x * 2, 'threads': torch.get_num_threads()}", threads=1, x=x)
    assert torch.equal(found["double"], x * 2)
    assert found["threads"] == 1
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_isa(None, "1 / 0")

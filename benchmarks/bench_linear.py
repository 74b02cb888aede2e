"""What one order of sums costs: gmkern's products of a row, whatever its batch, beside PyTorch's, free to choose.

x [rows, inputs] times weights [outputs, inputs]: ours as the head of a model with little else; PyTorch's with the
weights as they are, and transposed in memory. Shapes are those of a step of the 124M model.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from _case import OURS, Case, Run, across
from torch import Tensor

from gmkern.decode import Transformer, TransformerConfig
from gmkern.decode.transformer import ops, packed


class Linear(NamedTuple):
    model: Transformer
    x: Tensor  # [rows, inputs]

    @property
    def weight(self) -> Tensor:
        return self.model.head_weight.detach()


def linear(outputs: int, inputs: int, rows: int) -> Linear:
    torch.manual_seed(0)
    shape = TransformerConfig(outputs, 1, 1, inputs, 16, d_ff=16, position="none", tie_embeddings=False)
    return Linear(Transformer(shape), torch.randn(rows, inputs))


def ours(given: Linear) -> Run:
    held = packed.pack(given.model)
    return lambda _: ops.transformer_head(held.weights, given.x, held.shape, held.reals)


def as_they_are(given: Linear) -> Run:
    return lambda _: torch.nn.functional.linear(given.x, given.weight)


def transposed(given: Linear) -> Run:
    turned = given.weight.t().contiguous()
    return lambda _: given.x @ turned


def check(given: Linear, tool: str, ours: Tensor, theirs: Tensor) -> None:
    """fp32 sums of as many terms as there are inputs, in two orders; ours beside float64."""
    theirs = given.x.double() @ given.weight.double().t() if tool == OURS else theirs
    bound = 2 * given.x.shape[1] * 2**-24 * float((given.x.abs() @ given.weight.abs().t()).max())
    assert (ours - theirs).abs().max() <= bound, tool


def case(outputs: int, inputs: int, rows: int) -> Case:
    tools = {OURS: ours, "torch": as_they_are, "torch, transposed": transposed}
    moved = 4.0 * (outputs * inputs + rows * (outputs + inputs))
    name = f"linear, {rows} rows, {inputs} to {outputs}"
    return Case(name, partial(linear, outputs, inputs, rows), tools, check, moved, 2.0 * outputs * inputs * rows)


CASES = [case(outputs, inputs, rows) for outputs, inputs in ((3072, 768), (50_257, 768)) for rows in (1, 16, 256)]


@across(CASES)
@torch.inference_mode()
def test_linear(case, tool, raced):
    raced(case, tool)

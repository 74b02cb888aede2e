"""gmkern.neighbors with drawn arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from gmkern import neighbors
from gmkern.neighbors.knn.api import METRICS
from gmkern.testing import tolerance
from tests.robustness.fuzzing import FLOATS, SIZES, Draw, fuzz, laid_out, numbers


def points(draw: Draw, *, self_search: bool = True) -> dict[str, Any]:
    """Queries and references (or none), and whether a query excludes itself."""
    dtype = draw(st.sampled_from(FLOATS))
    n, m, dim = draw(SIZES | st.just(0)), draw(SIZES | st.sampled_from([65, 300])), draw(SIZES)
    batch = draw(st.sampled_from([[], [], [1], [3]]))
    exclude = draw(st.booleans())
    n = m if exclude else n
    kinds = "normal ties" + " tiny huge" * (dtype not in (torch.bfloat16, torch.float16))
    queries = numbers(draw, [*batch, n, dim], dtype, kinds)
    references = numbers(draw, [*batch, m, dim], dtype, kinds)
    if self_search and m > 1 and draw(st.booleans()):
        return {"queries": laid_out(draw, references), "references": None, "exclude_self": exclude}
    shown = laid_out(draw, references)
    if isinstance(shown, np.memmap) and len(batch):
        shown = references  # blocks of a map are streamed, without a batch
    elif not batch and draw(st.integers(0, 4)) == 0:
        shown = Blocks(references.split(draw(SIZES)))
    return {"queries": laid_out(draw, queries), "references": shown, "exclude_self": exclude}


class Blocks:
    """References that are read in turn, as often as they are asked for."""

    def __init__(self, blocks: tuple[Tensor, ...]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Any:
        return iter(self.blocks)


def counts(given: dict[str, Any]) -> tuple[list[int], int, int]:
    """Batch, queries and references of drawn points."""
    of = given["queries"] if given["references"] is None else given["references"]
    m = sum(len(block) for block in of.blocks) if isinstance(of, Blocks) else of.shape[-2]
    return list(given["queries"].shape[:-2]), given["queries"].shape[-2], m


def by_reference(function: Any) -> Any:
    """The reference's answer for references that are read in turn is that for all of them."""

    def answer(**given: Any) -> Any:
        references = given["references"]
        if isinstance(references, Blocks):
            given["references"] = torch.cat(references.blocks)
        elif isinstance(references, np.memmap):
            given["references"] = np.array(references)
        elif isinstance(references, list) and not references:  # of no blocks
            given["references"] = given["queries"][:0]
        return function(**given | {"backend": "reference"})

    return answer


def most_neighbours(given: dict[str, Any]) -> int:
    return counts(given)[2] - given["exclude_self"]


def with_neighbours(draw: Draw, given: dict[str, Any]) -> dict[str, Any]:
    most = most_neighbours(given)
    if most < 1:
        given["exclude_self"] = False
        most = 1
    return given | {"k": draw(st.integers(1, min(most, 40)))}


@fuzz("neighbors.knn", against=by_reference(neighbors.knn))
def test_knn(draw: Draw) -> dict[str, Any]:
    """The same bits, whatever the memory, the dtype and the magnitudes."""
    given = with_neighbours(draw, points(draw))
    metric = draw(st.sampled_from([each for each in METRICS if each != "cosine"]))
    return given | {"metric": metric, "block_rows": draw(st.sampled_from([None, None, 1, 16, 1000]))}


@fuzz("neighbors.knn", against=by_reference(neighbors.knn))
def test_knn_by_angle(draw: Draw) -> dict[str, Any]:
    """Rows of zeros have no direction, so none are drawn."""
    given = with_neighbours(draw, points(draw))
    for name in ("queries", "references"):
        if given[name] is not None:
            given[name] = without_zeros(given[name])
    return given | {"metric": "cosine"}


def without_zeros(x: Any) -> Any:
    if isinstance(x, Blocks):
        return Blocks(tuple(without_zeros(block) for block in x.blocks))
    x = torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("="))) if isinstance(x, np.ndarray) else x.clone()
    x[..., 0] = torch.where(x[..., 0].abs() < 0.5, 1.0, x[..., 0])
    return x


@fuzz("neighbors.knn_certificate")
def test_knn_certificate(draw: Draw) -> dict[str, Any]:
    """It says the same of the same points, however they lie in memory."""
    given = with_neighbours(draw, points(draw))
    if isinstance(given["references"], (Blocks, np.memmap)):
        given["references"] = None
        given = with_neighbours(draw, given | {"exclude_self": counts(given)[2] > 1})
        if not counts(given)[1]:
            given["queries"] = torch.zeros(3, 2)
    return given


@fuzz("neighbors.count_within", against=by_reference(neighbors.count_within))
def test_count_within(draw: Draw) -> dict[str, Any]:
    """Counts are exact, at radii that points lie on too."""
    given = points(draw, self_search=False)
    batch, n, m = counts(given)
    per = draw(st.sampled_from(["query", "reference"]))
    wide = torch.float64 if given["queries"].dtype.itemsize == 8 else torch.float32
    radii: Any = draw(st.sampled_from([-1.0, 0.0, 1.0, 2.0, 1e30, float("inf")]))
    if draw(st.booleans()):
        radii = laid_out(draw, numbers(draw, [*batch, m if per == "reference" else n], wide).abs())
    return given | {"radii": radii, "per": per, "strict": draw(st.booleans())}


def kernels(draw: Draw, names: list[str], *, sign: bool) -> dict[str, Any]:
    given = points(draw)
    dtype = torch.float64 if given["queries"].dtype.itemsize == 8 else torch.float32
    batch, _, m = counts(given)
    kernel = draw(st.sampled_from(names))
    given["kernel"] = kernel
    if kernel not in ("energy", "polynomial", "linear"):
        given["bandwidth"] = draw(st.sampled_from([0.5, 3.0]))
        if draw(st.booleans()):
            given["bandwidth"] = laid_out(draw, 0.5 + numbers(draw, [*batch, m], dtype).abs())
    if draw(st.booleans()):
        weights = numbers(draw, [*batch, m], dtype)
        given["weights"] = laid_out(draw, weights if sign else weights.abs())
    return given


def moderate(given: dict[str, Any]) -> dict[str, Any]:
    """Points whose sums neither overflow nor cancel, so that rounding alone is compared."""

    def tamed(x: Any) -> Any:
        if x is None:
            return None
        if isinstance(x, Blocks):
            return Blocks(tuple(tamed(block) for block in x.blocks))
        return x.clip(-4, 4)

    return given | {name: tamed(given[name]) for name in ("queries", "references")}


# Up to 300 references of up to 33 coordinates. A float32 square of a distance is off by tolerance(33) of itself, up to
# 33 * 8^2 = 2112, times the rate 1 / (2 * 0.5^2): an exponent that matters, above -104, is off by 104 tolerance(33),
# and the polynomial's third power by three times that of a product. Signs cancel at most to the sum of magnitudes,
# which a factor of 300 bounds against the largest sum that is seen.
ROUNDING = 300 * 104 * tolerance(torch.float32, 33)


@fuzz("neighbors.kernel_sum", rounding=ROUNDING, against=by_reference(neighbors.kernel_sum))
def test_kernel_sum(draw: Draw) -> dict[str, Any]:
    """Every kernel, with weights of any sign."""
    names = ["rbf", "laplace", "rational_quadratic", "inverse_multiquadric", "energy", "polynomial", "linear"]
    return moderate(kernels(draw, names, sign=True))


@fuzz(
    "neighbors.log_kernel_sum",
    rounding=104 * tolerance(torch.float32, 33),
    against=by_reference(neighbors.log_kernel_sum),
)
def test_log_kernel_sum(draw: Draw) -> dict[str, Any]:
    """Weights may be 0 and all mass may be gone: minus infinity then."""
    return moderate(kernels(draw, ["rbf", "laplace", "rational_quadratic", "inverse_multiquadric"], sign=False))

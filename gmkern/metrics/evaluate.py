"""Everything that neighbours say of generated samples, at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmkern import _progress, _validate
from gmkern._validate import ArrayLike
from gmkern.metrics import _bootstrap
from gmkern.metrics._bootstrap import Resamples
from gmkern.metrics._resampling import GENERATED, HOLDOUT, TRAIN
from gmkern.metrics._samples import samples
from gmkern.metrics._sweep import Sweep
from gmkern.metrics.novelty import nearest_and_ratio
from gmkern.metrics.report import Copy, Curve, Report, Scores

CURVE = (1, 2, 3, 5, 10, 20)
WORST = 30


def evaluate(
    generated: ArrayLike,
    train: ArrayLike,
    *,
    holdout: ArrayLike | None = None,
    k: int = 5,
    seed: int = 0,
    progress: bool = False,
    tolerance: float = 0.0,
    strict: bool = True,
    level: float = 0.95,
    resamples: int = 1000,
    image_shape: Sequence[int] | None = None,
    backend: str | None = None,
) -> Report:
    """Fidelity, diversity and novelty of generated samples, with confidence intervals, beside held-out ones.

    Parameters
    ----------
    generated, train : [N, D] and [M, D], features or raw data; float32, float64, bfloat16 or float16; finite;
        N, M >= 2. Memory-mapped arrays (``np.load(..., mmap_mode="r")``) are not copied: above 8 coordinates, where
        no tree is built of them, they may exceed memory.
    holdout : [H, D] real samples that were not trained on: judged as the generated ones are, and needed for C_T.
    k : neighbours that a ball reaches to, 1 to min(N, M, H) - 1.
    seed : of the bootstrap, by the noise contract (docs/noise.md).
    progress : show a bar on standard error, if that is a terminal.
    tolerance : samples within this distance of a training sample are its duplicates; 0: exact copies.
    strict : a ball holds what is nearer than its radius (True) or what is at it too (:func:`gmkern.metrics.prdc`).
    level : of the confidence intervals, between 0 and 1.
    resamples : of the bootstrap.
    image_shape : (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4, where rows are images that the report shall show.
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Report : prints as a table; ``to_json()``, ``save(folder)`` for a page with pictures.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Each number is that of :func:`gmkern.metrics.prdc`, :func:`~gmkern.metrics.novelty` and
    :func:`~gmkern.metrics.realism`, to the bit: realism, distance and ratio as lower medians, duplicates as a share.
    Exact distances; the result does not depend on threads, instruction set or backend but for the last bits of sums of
    the intervals.

    Intervals are percentiles of the bootstrap over samples: of the set for precision, density, realism, distance,
    ratio, authenticity and duplicates, of the training set for recall and coverage, of the set and the held-out set for
    C_T. Balls and neighbours are held fixed, as resampled sets would hold copies, whose balls are empty: the intervals
    are those of an average over samples, given the training set and the balls.

    One sweep in blocks of well under a second each; recall and precision at further k cost at most a sweep each. Memory
    beyond the inputs: [M, K] and [N, K] distances with K the largest k, the neighbour ops' own (docs/neighbors.md), and
    some tens of MB for the bootstrap; nothing of size N x M. Not differentiable.

    Examples
    --------
    >>> import torch, gmkern
    >>> draw = torch.Generator().manual_seed(0)
    >>> train, held_out = torch.randn(400, 8, generator=draw), torch.randn(200, 8, generator=draw)
    >>> copied = gmkern.metrics.evaluate(train[:200], train, holdout=held_out)
    >>> copied.generated.duplicates.value, copied.holdout.duplicates.value, copied.generated.c_t.value < -10
    (1.0, 0.0, True)
    """
    y = samples("train", train, least=2).detach()
    x = samples("generated", generated, like=("train", y), least=2).detach()
    h = None if holdout is None else samples("holdout", holdout, like=("train", y), least=2).detach()
    return evaluated(
        Sweep(backend), x, y, h, k=k, seed=seed, progress=progress, tolerance=tolerance, strict=strict, level=level,
        resamples=resamples, image_shape=image_shape,
    )  # fmt: skip


def evaluated(
    sweep: Sweep,
    x: Tensor,
    y: Tensor,
    h: Tensor | None,
    *,
    k: int,
    seed: int,
    progress: bool,
    tolerance: float,
    strict: bool,
    level: float,
    resamples: int,
    image_shape: Sequence[int] | None,
) -> Report:
    """:func:`evaluate` of sets [N, D], [M, D] and [H, D] that ``sweep`` searches."""
    counts = {"generated": sweep.count(x), "train": sweep.count(y), "holdout": 2 if h is None else sweep.count(h)}
    for name, count in counts.items():
        if count < 2:
            raise _validate.bad(name, f"{count} samples", "2 or more")
    n, m = counts["generated"], counts["train"]
    fewest = min(n, m) if h is None else min(counts.values())
    k = _validate.integer("k", k, low=1, high=fewest - 1)
    seed = _validate.integer("seed", seed)
    strict = _validate.flag("strict", strict)
    tolerance = _validate.number("tolerance", tolerance, low=0)
    level = _validate.number("level", level, above=0)
    if level >= 1:
        raise _validate.bad("level", repr(level), "a number above 0 and below 1")
    resamples = _validate.integer("resamples", resamples, low=1, high=1 << 20)
    shape = _image_shape(image_shape, x.shape[1])
    ks = tuple(sorted({one for one in (*CURVE, k) if one < fewest}))

    total = m * m + sum(Sweep.pairs(sweep.count(one), m, len(ks) - 1) for one in (x, h) if one is not None)
    with _progress.bar(progress, "evaluate", total) as show:
        sweep.show = show
        settings: dict[str, Any] = {"k": k, "ks": ks, "strict": strict, "tolerance": tolerance, "level": level}
        rows = Resamples(m, resamples, seed, TRAIN)
        own = sweep.own(y, ks[-1])
        held_out = None
        if h is not None:
            held_out = _judge(
                sweep, h, y, own, Resamples(counts["holdout"], resamples, seed, HOLDOUT), rows, **settings
            )
        found = _judge(sweep, x, y, own, Resamples(n, resamples, seed, GENERATED), rows, held_out=held_out, **settings)
    worst = found.distances.argsort(stable=True)[:WORST]
    sources = found.nearest[worst]
    return Report(
        generated=found,
        holdout=held_out,
        train=m,
        dim=x.shape[1],
        k=k,
        seed=seed,
        tolerance=tolerance,
        strict=strict,
        level=level,
        resamples=resamples,
        worst=tuple(
            map(
                Copy,
                worst.tolist(),
                sources.tolist(),
                found.distances[worst].tolist(),
                found.ratios[worst].tolist(),
            )
        ),
        copies=sweep.rows(x, worst),
        sources=sweep.rows(y, sources),
        image_shape=shape,
    )


def _judge(
    sweep: Sweep,
    x: Tensor,
    train: Tensor,
    own_train: Tensor,
    resamples: Resamples,
    train_resamples: Resamples,
    *,
    k: int,
    ks: tuple[int, ...],
    strict: bool,
    tolerance: float,
    level: float,
    held_out: Scores | None = None,
) -> Scores:
    """Scores of x [N, D] against train [M, D], whose own neighbours are at ``own_train`` [M, K]."""
    own = sweep.own(x, ks[-1])
    radii, train_radii = own[:, k - 1].contiguous(), own_train[:, k - 1].contiguous()
    distance, nearest, ratio = nearest_and_ratio(sweep.nearest(x, train, 2))
    to_set = sweep.nearest(train, x, 1).distances  # [M, 1]
    in_train = sweep.balls(x, train, train_radii, strict)
    in_set = sweep.balls(train, x, radii, strict) > 0
    covered = to_set < own_train if strict else to_set <= own_train  # [M, K]
    realism = sweep.realism(x, train, train_radii)
    curve = Curve(
        k=ks,
        precision=tuple(sweep.shares(x, train, own_train, ks, k, in_train > 0, strict)),
        recall=tuple(sweep.shares(train, x, own, ks, k, in_set, strict)),
        coverage=tuple(int(covered[:, one - 1].sum()) / len(covered) for one in ks),
    )
    of_set = _bootstrap.intervals(
        {
            "precision": _bootstrap.mean((in_train > 0).cpu()),
            "density": _bootstrap.mean(in_train.cpu(), over=k),
            "realism": _bootstrap.median(realism.cpu()),
            "distance": _bootstrap.median(distance.cpu()),
            "ratio": _bootstrap.median(ratio.cpu()),
            "authenticity": _bootstrap.mean((distance > own_train[nearest, 0]).cpu()),
            "duplicates": _bootstrap.mean((distance <= tolerance).cpu()),
        },
        resamples,
        level,
    )
    of_train = _bootstrap.intervals(
        {"recall": _bootstrap.mean(in_set.cpu()), "coverage": _bootstrap.mean(covered[:, k - 1].cpu())},
        train_resamples,
        level,
    )
    c_t = None
    if held_out is not None:
        others = Resamples(held_out.samples, resamples.count, resamples.seed, HOLDOUT)
        c_t = _bootstrap.copying_score(distance.cpu(), held_out.distances.cpu(), resamples, others, level)
    return Scores(
        samples=len(distance),
        **of_set,
        **of_train,
        c_t=c_t,
        curve=curve,
        distances=distance,
        nearest=nearest,
        ratios=ratio,
    )


def _image_shape(value: Sequence[int] | None, dim: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    takes = f"(H, W), (H, W, C) or (C, H, W) of {dim} numbers, with C = 1, 3 or 4"
    shape = tuple(
        _validate.integer("image_shape", side, low=1)
        for side in _validate.sequence("image_shape", value, "two or three ints")
    )
    size = 1
    for side in shape:
        size *= side
    colours = len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3, 4) or shape[2] in (1, 3, 4)))
    if size != dim or not colours:
        raise _validate.bad("image_shape", str(shape), takes)
    return shape

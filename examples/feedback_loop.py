"""A model retrained on its own samples: what becomes of fidelity, diversity and novelty?

Generation 1 is fitted to real digits. Each later one is fitted to samples of the one before it, mixed with a share of
real digits: the dial. The model is a mixture of Gaussians, which fits in a second. Without real data it forgets what is
rare, generation after generation (Shumailov et al., 2024); some real data holds it.

Run: python examples/feedback_loop.py --help
"""

import argparse

import torch

from gmkern.classical import GaussianMixture
from gmkern.demo import digits
from gmkern.metrics import novelty, prdc


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="examples:\n  python examples/feedback_loop.py --shares 0 0.1 1\n"
        "  python examples/feedback_loop.py --generations 20 --out loop.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--generations", type=int, default=10, help="how often a model is fitted (default: %(default)s)")
    words.add_argument(
        "--shares", type=float, nargs="+", default=[0.0, 0.2, 0.5, 1.0], help="of real data, from 0 to 1 (0 0.2 0.5 1)"
    )
    words.add_argument("--components", type=int, default=60, help="of the mixture (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    words.add_argument("--out", help="where to draw the three curves, a .png, .svg or .pdf file (needs matplotlib)")
    asked = words.parse_args()
    data = digits.load()
    if asked.generations < 1:
        words.error(f"argument --generations: got {asked.generations}; takes 1 or more")
    if not all(0 <= share <= 1 for share in asked.shares):
        words.error("argument --shares: takes numbers from 0 to 1")
    if not 1 <= asked.components <= len(data.train):
        words.error(f"argument --components: got {asked.components}; takes 1 to {len(data.train)}")

    curves = {}
    print("share of real data, generation: fidelity, diversity, novelty")
    for share in asked.shares:
        curves[share] = []
        for generation, found in enumerate(loop(data, share, asked.generations, asked.components, asked.seed), 1):
            curves[share].append(found)
            print(f"{share:4.2f}, {generation:2d}: {found[0]:.2f}, {found[1]:.2f}, {found[2]:.2f}", flush=True)
    held_out = judged(data.held_out.float(), data.train.float())
    print("held-out digits: " + ", ".join(f"{number:.2f}" for number in held_out))
    if asked.out is not None:
        draw(curves, held_out, asked.out)


def loop(data, share, generations, components, seed):
    """Precision, coverage and authenticity of each generation's samples, against the real training set."""
    real = digits.to_points(data.train, torch.rand(data.train.shape, generator=torch.Generator().manual_seed(seed)))
    fed = real
    for generation in range(generations):
        model = GaussianMixture.fit(
            fed, components, seed=seed + generation, covariance="tied", max_steps=30, regularization=1e-3
        )
        samples = model.sample(len(real), seed=seed + generation)
        yield judged(digits.to_levels(samples[: len(data.held_out)]).float(), data.train.float())
        kept = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed + generation))
        kept = kept[: round(share * len(real))]
        fed = torch.cat([real[kept], samples[len(kept) :]])


def judged(images, train):
    near, new = prdc(train, images, k=5), novelty(images, train)
    return float(near.precision), float(near.coverage), float(new.authenticity)


def draw(curves, held_out, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for at, (axes, name) in enumerate(
        zip(figure.subplots(1, 3, sharey=True), ("fidelity", "diversity", "novelty"), strict=True)
    ):
        axes.axhline(held_out[at], color="0.6", linestyle="--", linewidth=1, label="held-out digits")
        for share, rows in curves.items():
            axes.plot(
                range(1, len(rows) + 1), [row[at] for row in rows], marker="o", markersize=3, label=f"{share:.0%} real"
            )
        axes.set(title=name, xlabel="generation", ylim=(0, 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()

"""Which digits are of a kind that no model saw? Three scores of strangeness, compared by ROC.

Some classes are taken out of the training set. Their held-out images are the anomalies, to be told from held-out images
of the classes that were kept: by the distance to near training images, by a mixture's log-density, and by the bits
that an autoregressive transformer needs a pixel.

Run: python examples/anomaly.py --help
"""

import argparse

import torch
from sklearn.metrics import roc_auc_score, roc_curve

from gmkern.demo import digits, mixture, pixels
from gmkern.metrics import knn_anomaly_score


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="examples:\n  python examples/anomaly.py --classes 3\n"
        "  python examples/anomaly.py --classes 4 9 --out roc.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument(
        "--classes", type=int, nargs="+", default=[0, 4, 7], choices=range(10), metavar="DIGIT",
        help="to take out, 0 to 9 (0 4 7)",
    )  # fmt: skip
    words.add_argument("--steps", type=int, default=300, help="of the transformer's training (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of all training (default: %(default)s)")
    words.add_argument("--out", help="where to draw the curves, a .png, .svg or .pdf file (needs matplotlib)")
    asked = words.parse_args()
    if asked.steps < 1:
        words.error(f"argument --steps: got {asked.steps}; takes 1 or more")
    if len(set(asked.classes)) == digits.CLASSES:
        words.error("argument --classes: got all ten; takes nine at most")

    data = digits.load()
    strange = torch.isin(data.held_out_labels, torch.tensor(asked.classes))
    kept = ~torch.isin(data.train_labels, torch.tensor(asked.classes))
    known = data._replace(train=data.train[kept], train_labels=data.train_labels[kept])
    print(f"{len(known.train)} training images; held out: {int(strange.sum())} strange, {int((~strange).sum())} known")
    curves = {}
    for name, score in scores(known, asked.steps, asked.seed):
        area = roc_auc_score(strange, score)
        curves[f"{name} ({area:.2f})"] = roc_curve(strange, score)[:2]
        print(f"{name}: area under the ROC curve {area:.3f}", flush=True)
    if asked.out is not None:
        draw(curves, asked.out)


def scores(data, steps, seed):
    """Of each held-out image, larger for stranger ones."""
    images = data.held_out
    yield "nearest neighbours", knn_anomaly_score(images.float(), data.train.float(), k=5)
    yield "mixture of Gaussians", mixture.bits(mixture.train(data, steps=100, seed=seed, advance=ignore), images)
    yield "bits of the transformer", pixels.bits(pixels.train(data, steps=steps, seed=seed, advance=ignore), images)


def ignore(done):
    """No progress is shown."""


def draw(curves, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for name, (false_alarms, found) in curves.items():
        axes.plot(false_alarms, found, label=name)
    axes.set(xlabel="known digits called strange", ylabel="strange digits found", aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=160)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()

"""Draws the auto-encoder's fronts from the raw rows: docs/results/figures/gemonn-fronts.png.

python benchmarks/papers/gemonn_fronts.py
"""

import matplotlib
from common import RAW
from gemonn_page import by_method, front_of, rows_of
from matplotlib import pyplot

FIGURE = RAW.parent / "figures" / "gemonn-fronts.png"
STYLES = {  # Okabe and Ito's colours: told apart by everyone
    "default": ("GEMONN(), 25,000 passes", "#0072B2", "o-"),
    "pruning": ("Adam and gradual pruning, 25,000 passes", "#D55E00", "s--"),
    "paper, low side's gradient": ("GEMONN.paper(low_side=True)", "#009E73", "^-"),
    "paper": ("GEMONN.paper()", "#CC79A7", "v-"),
    "paper, plain SBX": ("the same with plain SBX", "#999999", "x:"),
}


def main() -> None:
    matplotlib.use("Agg")
    found = by_method(rows_of("autoencoder"))
    figure, axis = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for method, (label, color, style) in STYLES.items():
        if method in found:
            points = front_of(found[method][0]["front"])
            axis.plot(*zip(*points, strict=True), style, color=color, label=label, markersize=3)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("density: share of the 392,000 weights that are not zero")
    axis.set_ylabel("squared error on test images")
    axis.grid(True, which="both", alpha=0.2)
    axis.legend(fontsize=8)
    figure.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()

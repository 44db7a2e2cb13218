"""How far from a trained network should the members of its population begin?

For each seed: one Adam run on digits (1e-3, 300 steps), then GADAM from it at several noises and
dropouts, and from new weights, each with the same steps. Prints a Markdown table of validation
losses; test rows are not looked at.

    python benchmarks/start/noise.py --seeds 3
"""

import argparse
import statistics

import torch

import gradevo as ge
from gradevo.datasets.loading import load
from gradevo.models import mlp

LOSS = torch.nn.CrossEntropyLoss()
STARTS = [("new weights", None), *((f"noise {n:g}", {"noise": n}) for n in (0, 0.03, 0.1, 0.3, 1))]
STARTS += [(f"dropout {d:g}", {"noise": 0.0, "dropout": d}) for d in (0.1, 0.3)]


def one(seed: int) -> dict[str, tuple[float, float]]:
    """For each start: the members' mean loss before they learn, and the best after the run."""
    data, build = load("digits", seed=seed), mlp(64, 32, 10)
    adam = ge.Independent(population=1, steps=300, lr=1e-3, optimizer="Adam", batch_size=128)
    trained = ge.fit(adam, build, LOSS, data.train, valid=data.valid, seed=seed, engine="loop")
    found = {"the trained network": (float(trained.losses[0]),) * 2}
    for name, how in STARTS:
        start = None if how is None else ge.Start(trained.best, **how)
        population = ge.Population(build, 10, generator=torch.Generator().manual_seed(seed))
        if start is not None:
            start.into(population, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            before = population.losses(LOSS, *data.valid).mean()
        algorithm = ge.GADAM(generations=4, steps=100)
        more = {"valid": data.valid, "seed": seed, "engine": "batched", "start": start}
        result = ge.fit(algorithm, build, LOSS, data.train, **more)
        found[name] = float(before), float(result.losses[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    runs = [one(seed) for seed in range(parser.parse_args().seeds)]
    print("| start | members' mean loss before learning | best loss after the run |")
    print("| --- | --: | --: |")
    for name in runs[0]:
        before, after = (statistics.mean(run[name][i] for run in runs) for i in (0, 1))
        print(f"| {name} | {before:.3f} | {after:.4f} |")


if __name__ == "__main__":
    main()

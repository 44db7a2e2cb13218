"""SwarmLoss in one compiled pass: torch's directions for the same points, or torch itself."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradevo as ge
from gradevo.engines.simd.vector import LANES
from gradevo.randomness import generator_from, isolated
from gradevo.swarm import EMPSO, REMPSO, lanes
from gradevo.swarm.estimators import ESTIMATORS, Cloud
from gradevo.swarm.gradient import visit
from gradevo.swarm.search import Box

CRITERIA = {
    "CROSS_ENTROPY": F.cross_entropy, "MSE": F.mse_loss, "MAE": F.l1_loss,
    "BCE_LOGITS": F.binary_cross_entropy_with_logits, "BCE": F.binary_cross_entropy,
}  # fmt: skip


def hashed(x):
    """The kernel's integer hash."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def drawn_of(w, particles, seed, start=0):
    """The numbers in [0, 1) that the kernel draws, `(swarms, particles, dims)`."""
    swarms, dims = w.shape
    found = np.empty((-(-swarms // LANES) * LANES, particles, dims), np.float32)
    lane = np.arange(LANES, dtype=np.uint32)
    with np.errstate(over="ignore"):
        for b in range(len(found) // LANES):
            own = np.uint64((seed + b * 0x632BE59BD9B4E019) % 2**64)
            low, high = np.uint32(own & np.uint64(2**32 - 1)), np.uint32(own >> np.uint64(32))
            for i in range(particles):
                for d in range(dims):
                    counter = np.uint32(start + i * dims + d) * np.uint32(LANES) + lane
                    bits = hashed(hashed(counter + low) ^ high)
                    drawn = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
                    found[b * LANES : (b + 1) * LANES, i, d] = drawn
    return torch.from_numpy(found[:swarms])


def points_of(w, particles, spread, bounds, seed):
    """The points that the kernel draws, `(swarms, particles, dims)`."""
    x = w.unsqueeze(1) + spread * (drawn_of(w, particles, seed) * 2 - 1)
    return x if bounds is None else x.clamp(*bounds)


def drawn_problem(kind, rows, dims, seed, size=1):
    """Outputs, targets, a generator, and the seed that the kernel will draw from it."""
    generator = generator_from(seed)
    w = torch.randn(rows, dims, generator=generator) * size
    w = w.sigmoid() if kind == "BCE" else w
    if kind == "CROSS_ENTROPY":
        target = torch.randint(dims, (rows, 1), generator=generator)
    else:
        target = torch.rand(rows, dims, generator=generator)
    state = generator.get_state()
    drawn = int(torch.randint(2**62, (), generator=generator))
    generator.set_state(state)
    return w, target, generator, drawn


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(CRITERIA)), estimator=st.sampled_from(["rank", "tie"]),
    rows=st.integers(1, 40), dims=st.integers(1, 6), particles=st.integers(2, 25),
    seed=st.integers(0, 99), sure=st.booleans(),
)  # fmt: skip
def test_directions_are_the_estimators_on_the_points_that_were_drawn(
    kind, estimator, rows, dims, particles, seed, sure
):
    w, target, generator, drawn = drawn_problem(kind, rows, dims, seed, 40 if sure else 1)
    bounds = (0.0, 1.0) if kind == "BCE" else None
    classes = kind == "CROSS_ENTROPY"
    around = lanes.Around(particles, estimator, 0.5, bounds)
    found = lanes.directions(kind, w, target, around, generator)
    x = points_of(w, particles, 0.5, bounds, drawn)
    goal = target.repeat_interleave(particles, 0)
    values = CRITERIA[kind](x.flatten(0, 1), goal[:, 0] if classes else goal, reduction="none")
    losses = values.view(rows, particles, -1).mean(2)
    truth = ESTIMATORS[estimator](Cloud(w, x, losses))
    order = losses.sort(dim=1).values
    gaps = (order[:, 1:] - order[:, :-1]) / (order[:, 1:].abs() + 1e-3)
    clear = ((gaps > 1e-4) | (gaps == 0)).all(dim=1) & (order[:, -1] > order[:, 0] + 1e-4)
    torch.testing.assert_close(found.direction[clear], truth[clear], rtol=1e-3, atol=1e-4)
    assert not bool(found.lost.any())


class Scripted(EMPSO):
    """EMPSO with the kernel's draws."""

    def draw(self, swarm, generator):
        x = swarm.x
        start = next(generator)
        drawn = drawn_of(x[:, 0], x.shape[1], generator.seed, start * x[0].numel())
        return drawn if self.per_entry else drawn[..., :1].clone()


class Counting:
    """Counts the draws of a run."""

    def __init__(self, seed):
        self.seed, self.count = seed, 0

    def __next__(self):
        self.count += 1
        return self.count


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(CRITERIA)), estimator=st.sampled_from(lanes.ESTIMATORS),
    rows=st.integers(1, 40), dims=st.integers(1, 6), particles=st.integers(2, 12),
    iterations=st.integers(0, 4), per_entry=st.booleans(), corrected=st.booleans(),
    clamp=st.sampled_from([None, 0.1]), bounce=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_moved_swarms_find_what_torchs_find_with_the_same_draws(
    kind, estimator, rows, dims, particles, iterations, per_entry, corrected, clamp, seed, bounce
):
    w, target, generator, drawn = drawn_problem(kind, rows, dims, seed)
    bounds = (0.0, 1.0) if kind == "BCE" else (-2.0, 1.0) if seed % 2 else None
    classes = kind == "CROSS_ENTROPY"
    rule = {
        "per_entry": per_entry, "bias_correction": corrected, "clamp": clamp, "beta": 0.7,
        "bounce": bounce,
    }  # fmt: skip
    around = lanes.Around(particles, estimator, 0.5, bounds, EMPSO(**rule), iterations, 0.2)
    found = lanes.directions(kind, w, target, around, generator)
    losses = []

    def evaluate(x):
        goal = target.repeat_interleave(x.shape[1], 0)
        values = CRITERIA[kind](x.flatten(0, 1), goal[:, 0] if classes else goal, reduction="none")
        losses.append(values.view(rows, x.shape[1], -1).mean(2))
        return losses[-1]

    box = Box(*bounds) if bounds else None
    start = points_of(w, particles, 0.5, bounds, drawn)
    moves = Scripted(**rule), iterations, Counting(drawn)
    cloud = visit(evaluate, w, start, *moves, box=box, eta=0.2)
    truth = ESTIMATORS[estimator](cloud)
    order = torch.cat(losses, dim=1).sort(dim=1).values
    gaps = (order[:, 1:] - order[:, :-1]) / (order[:, 1:].abs() + 1e-2)
    clear = ((gaps > 1e-5) | (gaps == 0)).all(dim=1)  # no rounding changes who is better
    torch.testing.assert_close(found.direction[clear], truth[clear], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), F.l1_loss])
def test_a_whole_criterion_gives_torchs_gradient_on_average(loss):
    generator = generator_from(1)
    output = torch.randn(30, 4, generator=generator)
    target = torch.randint(4, (30,), generator=generator)
    target = target if isinstance(loss, nn.CrossEntropyLoss) else F.one_hot(target, 4).float()
    means = []
    for engine in ("torch", "simd"):
        criterion, total = ge.SwarmLoss(loss, engine=engine), torch.zeros(30, 4)
        for _ in range(150):
            x = output.clone().requires_grad_()
            value = criterion(x, target)
            value.backward()
            total += x.grad / 150
        means.append(total)
        assert value == loss(output, target)
    assert F.cosine_similarity(*(m.flatten() for m in means), dim=0) > 0.98
    assert float(means[0].norm() / means[1].norm()) == pytest.approx(1, abs=0.05)


def test_the_same_seed_gives_the_same_bits_and_a_state_dict_goes_on():
    x, y = torch.randn(9, 3, generator=generator_from(0)), torch.arange(9) % 3

    def step(criterion):
        w = x.clone().requires_grad_()
        criterion(w, y).backward()
        return w.grad

    one, other = (ge.SwarmLoss(F.cross_entropy, engine="simd", seed=3) for _ in range(2))
    first = step(one)
    assert torch.equal(first, step(other))
    fresh = ge.SwarmLoss(F.cross_entropy, engine="simd")
    fresh.load_state_dict(one.state_dict())
    second = step(one)
    assert not torch.equal(first, second)
    assert torch.equal(step(fresh), second)
    with isolated(generator_from(5)):
        inside = step(one)
    with isolated(generator_from(5)):
        assert torch.equal(step(fresh), inside)


def test_members_have_the_numbers_of_one_after_another():
    x = torch.randn(3, 8, 4, generator=generator_from(0))
    y = torch.randint(4, (3, 8), generator=generator_from(1))
    together, alone = (ge.SwarmLoss(F.cross_entropy, engine="simd") for _ in range(2))
    w = x.clone().requires_grad_()
    together.of_members(w, y).sum().backward()
    for i in range(3):
        own = x[i].clone().requires_grad_()
        alone(own, y[i]).backward()
        torch.testing.assert_close(w.grad[i], own.grad)


LEFT = {
    "a loss of one's own": (lambda o, t: (o.argmax(1) != t).float(), {}),
    "class weights": (nn.CrossEntropyLoss(weight=torch.ones(4)), {}),
    "a function with class weights": (partial(F.cross_entropy, weight=torch.ones(4)), {}),
    "class weights of margins": (nn.MultiMarginLoss(weight=torch.ones(4)), {}),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), {}),
    "other moves": (nn.CrossEntropyLoss(), {"iterations": 2, "dynamics": REMPSO()}),
    "another start": (nn.CrossEntropyLoss(), {"start": "range", "bounds": (-1.0, 1.0)}),
    "another estimator": (nn.CrossEntropyLoss(), {"estimator": "regression"}),
    "the whole batch": (F.cross_entropy, {"scope": "batch"}),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_it_does_not_serve_is_left_to_torch(kind):
    loss, settings_ = LEFT[kind]
    x = torch.randn(6, 4, generator=generator_from(0))
    found = []
    for engine in ("torch", "simd"):
        w = x.clone().requires_grad_()
        ge.SwarmLoss(loss, engine=engine, **settings_)(w, torch.arange(6) % 4).backward()
        found.append(w.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 9.0, 1.0, 1.0])),
        nn.BCEWithLogitsLoss(torch.ones(6, 1)),
        nn.BCELoss(torch.ones(4)),
        partial(F.mse_loss, weight=torch.ones(6, 4)),
        partial(F.binary_cross_entropy_with_logits, pos_weight=torch.ones(4)),
    ],
    ids=["pos_weight", "weight of rows", "weight of columns", "partial", "partial with logits"],
)
def test_weights_of_entries_are_left_to_torch(loss):
    x = torch.randn(6, 4, generator=generator_from(0)).sigmoid()
    found = []
    for engine in ("torch", "simd"):
        w = x.clone().requires_grad_()
        ge.SwarmLoss(loss, engine=engine)(w, (x > 0.5).float()).backward()
        found.append(w.grad)
    assert torch.equal(*found)


def test_an_ignored_label_and_double_precision_are_left_to_torch_too():
    for x, y in ((torch.randn(4, 3), torch.tensor([0, -100, 1, 2])),
                 (torch.randn(4, 3).double(), torch.tensor([0, 2, 1, 2]))):  # fmt: skip
        found = []
        for engine in ("torch", "simd"):
            w = x.clone().requires_grad_()
            ge.SwarmLoss(nn.CrossEntropyLoss(), engine=engine)(w, y).backward()
            found.append(w.grad)
        assert torch.equal(*found)


def test_an_output_that_is_no_number_stays_so_and_hopeless_swarms_are_told():
    x = torch.zeros(5, 3)
    x[1, 2] = torch.nan
    w = x.clone().requires_grad_()
    ge.SwarmLoss(F.cross_entropy, engine="simd")(w, torch.zeros(5).long()).backward()
    assert w.grad.isnan().any(dim=1).tolist() == [False, True, False, False, False]
    huge = torch.full((2, 3), 3e38, requires_grad=True)
    with pytest.raises(ValueError, match="must be finite for at least one point"):
        ge.SwarmLoss(F.mse_loss, engine="simd")(huge, torch.zeros(2, 3))


def test_the_engine_is_checked_and_needs_numba(monkeypatch):
    with pytest.raises(ValueError, match="engine: must be one of torch, simd, got 'gpu'"):
        ge.SwarmLoss(F.mse_loss, engine="gpu")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"pip install 'gradevo\[simd\]'"):
        ge.SwarmLoss(F.mse_loss, engine="simd")

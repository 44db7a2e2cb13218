"""Members across vector lanes: the loop's numbers as closely as float32 can, or a reason."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.randomness import generator_from, isolated
from gradevo.structure import evaluating
from layers import row
from stacks import CHAINS, CLASSES, DROPPING, INPUTS

LOSSES = {
    "cross entropy": F.cross_entropy, "cross entropy as a module": nn.CrossEntropyLoss(),
    "mse": F.mse_loss, "mae": nn.L1Loss(), "bce": nn.BCEWithLogitsLoss(),
    "any other": lambda output, target: (output - target).pow(4).mean(),
    "not a mean": nn.MSELoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
}  # fmt: skip


def trio(build, size):
    """The same members by the loop, by the loop in double precision, and by the engine."""
    first = ge.Population(build, size, generator=generator_from(1), engine="loop")
    double = copy.deepcopy(first).double()
    second = ge.Population(build, size, generator=generator_from(1), engine="simd")
    return first, double, second


def batch(size, rows, per_member, loss="cross entropy", seed=0):
    generator = generator_from(seed)
    lead = (size, rows) if per_member else (rows,)
    x = torch.randn(*lead, INPUTS, generator=generator)
    if "cross" in loss or loss == "smoothed":
        return x, torch.randint(CLASSES, lead, generator=generator)
    return x, torch.rand(*lead, CLASSES, generator=generator)


def doubled(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def as_close_as_floats(mine, theirs, truth):
    """No further from the truth than torch's own float32, within a factor of four."""
    scale = truth.abs().max().item() + 1e-30
    far = (mine.double() - truth).abs().max().item() / scale
    near = (theirs.double() - truth).abs().max().item() / scale
    assert far <= 4 * max(near, 2e-7), (far, near)  # one number may be right by luck


def steps(pop, loss, batches, per_member, learning_rate=0.0):
    """Losses and gradients of some batches."""
    gradient, found = pop.gradient(), []
    optimizer = torch.optim.SGD(pop.parameters(), learning_rate)
    for x, y in batches:
        gradient.zero_()
        found.append(pop.accumulate(loss, x, y, per_member=per_member))
        found.append(gradient.clone())
        optimizer.step()
    return [*found, *(b.clone() for b in pop.tensors.values())]


@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("kind", CHAINS)
def test_gradients_losses_and_buffers_are_the_loops(kind, per_member):
    loop, double, simd = trio(CHAINS[kind], 5)
    batches = [batch(5, rows, per_member, seed=rows) for rows in (2, 21, 150)]
    exact = [(x.double(), y) for x, y in batches]
    theirs = steps(loop, F.cross_entropy, batches, per_member, 1e-3)
    truth = steps(double, F.cross_entropy, exact, per_member, 1e-3)
    mine = steps(simd, F.cross_entropy, batches, per_member, 1e-3)
    assert simd.engine == "simd"
    for own, other, right in zip(mine, theirs, truth, strict=True):
        as_close_as_floats(own, other, right)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_kernel_and_any_other_loss(name):
    loop, double, simd = trio(CHAINS["relu"], 3)
    x, y = batch(3, 12, True, name)
    theirs = steps(loop, LOSSES[name], [(x, y)], True)
    truth = steps(double, LOSSES[name], [(x.double(), doubled(y))], True)
    mine = steps(simd, LOSSES[name], [(x, y)], True)
    for own, other, right in zip(mine, theirs, truth, strict=True):
        as_close_as_floats(own, other, right)


def test_probabilities_have_their_own_cross_entropy():
    build = row(lambda: nn.Linear(INPUTS, CLASSES), nn.Sigmoid)
    loop, _, simd = trio(build, 3)
    x, y = batch(3, 12, True, "bce")
    y[0, 0], x[0, 1] = torch.tensor([0.0, 1.0, 0.5]), 300.0  # some outputs are 0 and 1
    found = [steps(pop, nn.BCELoss(), [(x.to(dtype), y.to(dtype))], True)
             for pop, dtype in ((simd, torch.float32), (loop, torch.float32))]  # fmt: skip
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40), rows=st.integers(1, 70), seed=st.integers(0, 9),
    hidden=st.lists(st.integers(1, 40), max_size=3), inputs=st.integers(1, 30),
    per_member=st.booleans(),
)  # fmt: skip
def test_any_sizes_of_networks_batches_and_populations(
    size, rows, seed, hidden, inputs, per_member
):
    generator = generator_from(seed)
    lead = (size, rows) if per_member else (rows,)
    x = torch.randn(*lead, inputs, generator=generator)
    y = torch.randint(2, lead, generator=generator)
    loop, double, simd = trio(mlp(inputs, *hidden, 2), size)
    theirs, truth, mine = (
        steps(pop, F.cross_entropy, [(x.to(dtype), y)], per_member)
        for pop, dtype in ((loop, torch.float32), (double, torch.float64), (simd, torch.float32))
    )
    for own, other, right in zip(mine, theirs, truth, strict=True):
        as_close_as_floats(own, other, right)
    with torch.no_grad(), evaluating(loop), evaluating(simd):
        torch.testing.assert_close(simd(x, per_member=per_member), loop(x, per_member=per_member))


@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("kind", CHAINS)
def test_outputs_have_gradients_that_any_loss_can_use(kind, per_member):
    loop, _, simd = trio(CHAINS[kind], 4)
    x, _ = batch(4, 9, per_member)
    for pop in (loop, simd):
        pop(x, per_member=per_member).square().mean((1, 2)).sum().backward()
    for name, leaf in loop.leaves.items():
        torch.testing.assert_close(simd.leaves[name].grad, leaf.grad, rtol=1e-4, atol=1e-6)
    for name, tensor in loop.tensors.items():
        torch.testing.assert_close(simd.tensors[name], tensor)


def test_weights_changed_between_forward_and_backward_are_told():
    pop = ge.Population(CHAINS["relu"], 2, engine="simd")
    output = pop(batch(2, 4, False)[0])
    with torch.no_grad():
        next(iter(pop.leaves.values())).zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# --- dropout -----------------------------------------------------------------------------


def dropped(seed, size=20, rows=64):
    """What is left of ones after dropout, `(g, rows, inputs)`."""

    def build():
        network = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 6, bias=False))
        with torch.no_grad():
            network[1].weight.copy_(torch.eye(6))
        return network

    pop = ge.Population(build, size, engine="simd")
    with isolated(generator_from(seed)), torch.no_grad():
        return pop(torch.ones(rows, 6))


def test_dropout_drops_its_share_scales_the_rest_and_differs_everywhere():
    kept = dropped(1)
    scale = torch.tensor(1 / 0.7)
    assert set(kept.unique().tolist()) == {0.0, scale.item()}
    assert abs(float((kept == 0).float().mean()) - 0.3) < 0.02
    for axis in range(3):  # no two members, rows or inputs are alike
        slices = (kept == 0).float().movedim(axis, 0).flatten(1)
        alike = torch.corrcoef(slices) - torch.eye(len(slices))
        assert alike.abs().max() < 0.6
        assert alike.abs().mean() < 0.1
    assert torch.equal(kept, dropped(1))
    assert not torch.equal(kept, dropped(2))


def test_dropout_has_the_gradient_of_what_it_kept():
    pop = ge.Population(DROPPING, 3, engine="simd")
    x, y = batch(3, 30, True)
    found = []
    for compute in (pop.accumulate, lambda *a, **k: pop.losses(*a, **k).sum().backward()):
        gradient = pop.gradient()
        with isolated(generator_from(4)):
            compute(F.cross_entropy, x, y, per_member=True)
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert bool((found[0] != 0).any())


# --- what it declines ------------------------------------------------------------------------

DECLINED = {
    "a convolution": (lambda: nn.Sequential(nn.Conv1d(2, 2, 1), nn.Flatten(), nn.Linear(6, 3)),
                      (2, 3), "it has Conv1d"),
    "double precision": (lambda: nn.Linear(4, 3).double(), (4,), "not float32"),
    "a layer of one's own": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Hardtanh()), (4,),
                             "it has Hardtanh"),
    "approximate gelu": (lambda: nn.Sequential(nn.Linear(4, 3), nn.GELU("tanh")), (4,),
                         "it has GELU"),
    "a norm without momentum": (lambda: nn.Sequential(nn.BatchNorm1d(4, momentum=None),
                                                      nn.Linear(4, 3)), (4,), "momentum"),
    "rows of rows": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 3)),
                     (2, 4), "not as wide as the one before"),
    "idle weights": (lambda: Idle(), (4,), "weights outside its layers"),
    "no weights": (lambda: nn.Sequential(nn.PReLU(), nn.Flatten()), (4,), "no linear layer"),
}  # fmt: skip


class Idle(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.body, self.spare = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("kind", DECLINED)
def test_what_it_has_no_kernel_for_is_declined_with_the_reason(kind):
    build, shape, reason = DECLINED[kind]
    pop = ge.Population(build, 2, engine="simd")
    x = torch.randn(5, *shape, generator=generator_from(0)).to(pop.flat.dtype)
    with pytest.raises(ge.EngineError, match=rf"got 'simd', which declines \(.*{reason}"):
        pop.losses(F.cross_entropy, x, torch.zeros(5, dtype=torch.long))


def test_without_numba_it_declines_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    pop = ge.Population(CHAINS["relu"], 2, engine="simd")
    x, y = batch(2, 4, False)
    with pytest.raises(ge.EngineError, match=r"needs Numba.*pip install 'gradevo\[simd\]'"):
        pop.losses(F.cross_entropy, x, y)
    auto = ge.Population(CHAINS["relu"], 2, engine="auto")
    auto.losses(F.cross_entropy, x, y)
    assert "needs Numba" in auto.choice.report["simd"]


def test_targets_that_are_no_classes_fail_as_they_do_in_torch():
    pop = ge.Population(CHAINS["relu"], 2, engine="simd")
    x, y = batch(2, 4, False)
    with pytest.raises(IndexError, match="out of bounds"):
        pop.losses(F.cross_entropy, x, y + CLASSES)
    ignored = torch.tensor([0, -100, 1, 2])
    loop, _, simd = trio(CHAINS["relu"], 2)
    theirs, mine = (steps(p, F.cross_entropy, [(x, ignored)], False) for p in (loop, simd))
    torch.testing.assert_close(mine, theirs)


def test_a_member_that_is_not_a_number_stays_so_and_leaves_the_others_alone():
    _, _, pop = trio(CHAINS["gelu"], 3)
    x, y = batch(3, 8, True)
    clean = steps(pop, F.cross_entropy, [(x, y)], True)[1].clone()
    with torch.no_grad():
        pop.tensors["0.weight"][1, 0, 0] = torch.nan
    losses, gradient = steps(pop, F.cross_entropy, [(x, y)], True)[:2]
    assert losses.isnan().tolist() == [False, True, False]
    for block, before in zip(pop._split(gradient), pop._split(clean), strict=True):
        assert torch.equal(block[[0, 2]], before[[0, 2]])


# --- other processors ----------------------------------------------------------------------

LIKE = "t.test_gradients_losses_and_buffers_are_the_loops({!r}, True)"
DROPPED = "t.test_dropout_drops_its_share_scales_the_rest_and_differs_everywhere()"
NARROW = {  # processor, what it can, and what is tried: each is compiled anew, for many seconds
    "8": ("haswell", "+avx2,+fma,+avx", (LIKE.format("norms"), LIKE.format("gelu"))),
    "4": ("nehalem", "+sse4.2", (LIKE.format("deep and wide"), DROPPED)),
}


@pytest.mark.parametrize("lanes", NARROW)
def test_narrower_vectors_give_the_same_numbers(lanes, tmp_path):
    name, features, calls = NARROW[lanes]
    begin = "import test_simd as t\nfrom gradevo.engines.simd.vector import LANES"
    code = "\n".join([begin, f"assert LANES == {lanes}, LANES", *calls])
    environment = os.environ | {
        "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

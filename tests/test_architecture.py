"""What may not become a population: every refusal names argument, rule and value."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import gradevo as ge
from gradevo.models import mlp
from modules import close

ONE = nn.Linear(2, 2)


def alternating(*builds):
    """A builder that takes turns."""
    turns = iter(builds * 2)
    return lambda: next(turns)()


def sharing():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = ONE.weight
    return model


def mixed():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())


def half_frozen(part: int):
    model = mlp(2, 2, 2)()
    model[part].requires_grad_(False)
    return model


class Growing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 2))


class Knots(nn.Module):
    """Three matrices, the last tied to one of the others."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
        self.layers[2].weight = self.layers[to].weight


REFUSED = {
    "the same module twice": (lambda: ONE, ValueError, "a new module .* got the same one"),
    "two classes": (
        alternating(lambda: nn.Linear(2, 2), lambda: mlp(2, 2)()),
        ValueError,
        r"one architecture, got Linear\(.*\) in member 0 and Sequential\(\) in member 1",
    ),
    "two activations": (
        alternating(
            lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh()),
        ),
        ValueError,
        r"one architecture, got 1 ReLU\(\) in member 0 and 1 Tanh\(\) in member 1",
    ),
    "two dropout rates": (
        alternating(mlp(2, 2, 2, dropout=0.1), mlp(2, 2, 2, dropout=0.2)),
        ValueError,
        "one architecture, got 2 Dropout.p=0.1.* and 2 Dropout.p=0.2",
    ),
    "a longer one": (
        alternating(mlp(2, 2), mlp(2, 2, 2)),
        ValueError,
        r"one architecture, got None in member 0 and 1 ReLU\(\) in member 1",
    ),
    "two widths": (
        alternating(lambda: Growing(3), lambda: Growing(4)),
        ValueError,
        r"one architecture, got 'weight' of shape \(3, 2\).*member 0 and \(4, 2\).*member 1",
    ),
    "two dtypes": (
        alternating(lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 2).double()),
        ValueError,
        r"one architecture, .*torch.float32.* and .*torch.float64",
    ),
    "other parts frozen": (
        alternating(lambda: half_frozen(0), lambda: half_frozen(2)),
        ValueError,
        "one architecture, got members 0 and 1 that differ in what is frozen",
    ),
    "other ties": (
        alternating(lambda: Knots(0), lambda: Knots(1)),
        ValueError,
        "one architecture, got members 0 and 1 that differ in what is frozen or tied",
    ),
    "shared parameters": (
        sharing,
        ValueError,
        "share no parameters, got the same '1.weight' in members 0 and 1",
    ),
    "lazy parameters": (lambda: nn.LazyLinear(2), ValueError, "known shapes, got lazy parameters"),
    "mixed dtypes": (
        mixed,
        ValueError,
        r"one dtype on one device, got \['torch.float32 on cpu', 'torch.float64 on cpu'\]",
    ),
    "nothing to train": (nn.ReLU, ValueError, "with trainable parameters, got none"),
    "all frozen": (
        lambda: nn.Linear(2, 2).requires_grad_(False),
        ValueError,
        "with trainable parameters, got none",
    ),
    "not a module": (lambda: 3, TypeError, "must give an nn.Module, got int"),
    "a class": (lambda: nn.ReLU, TypeError, "must give an nn.Module, got type"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_build_may_not_give(what):
    build, error, message = REFUSED[what]
    with pytest.raises(error, match=f"^build: .*{message}"):
        ge.Population(build, 2)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3", None])
def test_a_size_that_is_no_number_of_members_is_named(size):
    with pytest.raises(ValueError, match=f"size: must be a whole number of at least 1, .*{size}"):
        ge.Population(mlp(2, 1), size)


def test_other_arguments_are_named_as_well():
    pop = ge.Population(mlp(4, 3, 2), 3)
    with pytest.raises(ValueError, match="modules: must hold at least one module"):
        ge.Population.from_modules([])
    with pytest.raises(ValueError, match="modules: must give a new module for every member"):
        ge.Population.from_modules([ONE, ONE])
    with pytest.raises(ValueError, match="module: must give one architecture"):
        pop.load_row(0, mlp(4, 2)())
    with pytest.raises(TypeError, match=r"module: must give an nn\.Module, got dict"):
        pop.load_row(0, {})
    with pytest.raises(ValueError, match="indices: must name at least one member, got none"):
        pop.select([])
    with pytest.raises(IndexError, match=r"indices: must be a member of 0\.\.2, got 3"):
        pop.select([0, 3])
    for i in (3, -4):
        with pytest.raises(IndexError, match=rf"i: must be a member of 0\.\.2, got {i}"):
            pop.member(i)


def test_parametrised_modules_and_local_classes_are_one_architecture():
    def build() -> nn.Module:
        class Local(nn.Linear):
            pass

        return parametrizations.weight_norm(Local(3, 2))

    pop = ge.Population(build, 2, engine="loop")
    x = torch.ones(4, 3)
    pop.losses(F.mse_loss, x, torch.zeros(4, 2)).sum().backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in pop.leaves.values())
    close(pop(x)[1], pop.member(1)(x))

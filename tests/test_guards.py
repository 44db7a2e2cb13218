"""Batches that all members see stay as they are, and so do the user's tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gradevo as ge
from gradevo.batches import LoaderSource
from gradevo.fitness import evaluate
from gradevo.randomness import generator_from

pytestmark = pytest.mark.usefixtures("forgetful", "seeded")
ENGINES = ("loop", "vmap", "batched", "loop@2", "auto")
INPUT, TARGET = "leave their input as it is", "leave its target as it is"
X, Y = torch.randn(12, 4), torch.randn(12, 1)


def writing(change):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            change(x)
            return self.layer(x)

    return Net


def scaling(change):
    def loss(output, y):
        change(y)
        return F.mse_loss(output, y)

    return loss


CHANGES = {
    "in place": lambda t: t.sub_(5),
    "an entry": lambda t: t.__setitem__(0, 1.0),
    "by out=": lambda t: torch.mul(t, 2, out=t),
    "through data": lambda t: t.data.mul_(2),
    "through detach": lambda t: t.detach().mul_(2),
    "through NumPy": lambda t: t.detach().numpy().__imul__(2),
}


def calls(pop, loss):
    """All that hands a batch to members."""
    pop.gradient()
    return {
        "forward": lambda x, y: pop(x),
        "losses": lambda x, y: pop.losses(loss, x, y),
        "accumulate": lambda x, y: pop.accumulate(loss, x, y),
        "evaluate": lambda x, y: evaluate(pop, loss, x, y),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", CHANGES)
def test_whoever_writes_into_a_batch_is_refused_by_name_and_the_batch_is_as_it_was(how, engine):
    for build, loss, rule in (
        (writing(CHANGES[how]), F.mse_loss, INPUT),
        (lambda: nn.Linear(4, 1), scaling(CHANGES[how]), TARGET),
    ):
        for name, call in calls(ge.Population(build, 3, engine=engine), loss).items():
            if name == "forward" and rule == TARGET:
                continue
            x, y = X.clone(), Y.clone()
            with pytest.raises((ValueError, ge.EngineError), match=f"{rule}|declines"):
                call(x, y)
            assert torch.equal(x, X)
            assert torch.equal(y, Y)


def test_a_change_that_comes_late_is_noticed_too():
    late = False
    pop = ge.Population(writing(lambda x: x.add_(1) if late else x), 2, engine="loop")
    x = X.clone()
    pop(x)
    late = True
    with pytest.raises(ValueError, match=INPUT):
        pop(x)
    assert torch.equal(x, X)


@pytest.mark.parametrize("engine", ENGINES)
def test_containers_are_everybodys_own(engine):
    class Popping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, parts):
            return {"out": self.layer(parts.pop("x")), "more": parts.pop("more")}

    def loss(output, y):
        output["out"] = output.pop("out") * 2
        return F.mse_loss(output["out"], y.pop("y"))

    given, target = ({"x": X.clone(), "more": Y.clone()},), {"y": Y.clone()}
    pop = ge.Population(Popping, 3, engine=engine)
    if engine == "batched":
        with pytest.raises(ge.EngineError, match="declines"):
            pop.losses(loss, given, target)
        return
    expected = [loss(pop.member(i)({"x": X, "more": Y}), {"y": Y}) for i in range(3)]
    for _ in range(2):
        torch.testing.assert_close(pop.losses(loss, given, target), torch.stack(expected))
    torch.testing.assert_close(
        evaluate(pop, loss, given, target), torch.stack(expected).double().detach(),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    assert list(given[0]) == ["x", "more"]
    assert list(target) == ["y"]


def test_a_forward_that_asks_for_gradients_of_its_input_asks_those_of_a_copy():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, t):
            u = self.net(t.requires_grad_())
            return u, torch.autograd.grad(u.sum(), t, create_graph=True)[0]

    t = torch.linspace(0, 1, 40)[:, None]
    target = torch.sin(t)
    result = ge.fit(
        ge.GADAM(population=2, generations=1, steps=3, batch_size=8), Slope,
        lambda o, y: (o[1] + y).square().mean(), (t, target), valid=(t, target), quiet=True,
    )  # fmt: skip
    _, slope = result.best(t)
    torch.testing.assert_close(
        float((slope.detach() + target).square().mean()), float(result.losses[0])
    )
    assert not result.ensemble(t.detach().clone())[0].isnan().any()


def test_a_loader_that_reuses_its_memory_gives_every_member_its_own_batch():
    room = torch.empty(4, 4), torch.empty(4, 1)

    def collate(rows):
        for i, (x, y) in enumerate(rows):
            room[0][i], room[1][i] = x, y
        return room

    found = []
    for how in (None, collate):
        source = LoaderSource(
            DataLoader([*zip(X, Y, strict=True)], 4, shuffle=True, collate_fn=how)
        )
        found.append(source.draw(source.start(generator_from(0)), 3, False))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def halving(rows):
    for x, _ in rows:
        x.mul_(0.5)
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


class Made(Dataset):
    """Makes its rows anew at every call."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return X[i] + 1, Y[i]


def test_a_collate_that_writes_into_the_datasets_rows_is_refused_and_they_are_as_they_were():
    given = X.clone()
    short = ge.GADAM(population=2, generations=1, steps=2)
    for rows in (TensorDataset(given, Y), [*zip(given.unbind(), Y.unbind(), strict=True)]):
        loader = DataLoader(rows, 4, collate_fn=halving)
        for data in ({"train": loader, "valid": (X, Y)}, {"train": (X, Y), "valid": loader}):
            with pytest.raises(ValueError, match="collate_fn leaves the rows as they are, got hal"):
                ge.fit(short, lambda: nn.Linear(4, 1), F.mse_loss, **data)
        assert torch.equal(given, X)
    made = DataLoader(Made(), 4, collate_fn=halving)
    ge.fit(short, lambda: nn.Linear(4, 1), F.mse_loss, made, valid=(X, Y), quiet=True)

"""A population: one buffer, members that are ordinary modules, and what it refuses."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.randomness import generator_from
from gradevo.structure import tensors_of
from modules import ZOO, Case, Frozen, Tied, close, same

FEW = settings(max_examples=12, deadline=None)
SIZES = st.integers(1, 5)


def population(name: str = "mlp", size: int = 3, seed: int = 3, engine: str = "loop"):
    return ge.Population(ZOO[name].build, size, generator=generator_from(seed), engine=engine)


def is_one_buffer(pop: ge.Population) -> bool:
    """Leaf after leaf, contiguous, `(g, ...)` each: no gap, no number outside."""
    start = pop.flat.data_ptr()
    for name in pop.structure.trainable:
        leaf = pop.stacked.get_parameter(name)
        if leaf.data_ptr() != start or not leaf.is_contiguous() or len(leaf) != pop.size:
            return False
        if pop.leaves[name] is not leaf or leaf.dtype != pop.flat.dtype:
            return False
        start += leaf.numel() * leaf.element_size()
    return start == pop.flat.data_ptr() + pop.flat.numel() * pop.flat.element_size()


def learns(pop: ge.Population, case: Case) -> bool:
    """Whether a step through the loop moves the numbers of this very population."""
    x, y = case.batch()
    x = x.to(pop.flat.dtype)
    before = pop.flat.clone()
    pop.gradient()
    pop.accumulate(case.loss, x, x if y.is_floating_point() else y)
    torch.optim.SGD(pop.parameters(), lr=0.1).step()
    rows = torch.stack([pop.member(i).eval()(x) for i in range(pop.size)])
    close(copy.deepcopy(pop).eval()(x), rows)
    return not torch.equal(before, pop.flat)


# --- the buffer ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ZOO))
def test_leaves_are_contiguous_views_of_one_buffer(name):
    pop = population(name)
    assert is_one_buffer(pop)
    trainable = {n: p for n, p in ZOO[name].build().named_parameters() if p.requires_grad}
    assert pop.flat.numel() == pop.size * sum(p.numel() for p in trainable.values())
    assert {n: leaf.shape[1:] for n, leaf in pop.leaves.items()} == {
        n: p.shape for n, p in trainable.items()
    }
    pop.flat.zero_()
    assert all(bool((leaf == 0).all()) for leaf in pop.leaves.values())


MOVES = {
    "to a dtype": lambda pop: pop.to(torch.float64),
    "to where it is": lambda pop: pop.to("cpu"),
    "as part of another module": lambda pop: nn.ModuleList([pop]).double()[0],
    "deepcopy": copy.deepcopy,
    "pickle": lambda pop: pickle.loads(pickle.dumps(pop)),
    "share_memory": lambda pop: pop.share_memory(),
    "requires_grad_": lambda pop: pop.requires_grad_(),
    "zero_grad": lambda pop: pop.zero_grad() or pop,
}


@pytest.mark.parametrize("move", list(MOVES))
@pytest.mark.parametrize("name", ["mlp", "convolution", "lstm", "tied"])
def test_there_is_one_buffer_still_after(move, name):
    pop = population(name)
    assert learns(pop, ZOO[name])  # engines are built, gradients are there
    before = pop.flat.clone()
    moved = MOVES[move](pop)
    assert is_one_buffer(moved)
    assert torch.equal(moved.flat, before.to(moved.flat.dtype))
    assert learns(moved, ZOO[name])


def test_a_copy_is_independent():
    pop = population()
    assert learns(pop, ZOO["mlp"])
    before, twin = pop.flat.clone(), copy.deepcopy(pop)
    assert learns(twin, ZOO["mlp"])
    assert torch.equal(pop.flat, before)
    assert learns(pop, ZOO["mlp"])
    assert torch.equal(pop.flat, twin.flat)


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_keeps_the_one_buffer(assign):
    source, target = population("convolution", seed=1), population("convolution", seed=2)
    assert learns(target, ZOO["convolution"])
    target.load_state_dict(source.state_dict(), assign=assign)
    assert is_one_buffer(target)
    assert same(tensors_of(target.stacked), tensors_of(source.stacked))
    assert learns(target, ZOO["convolution"])


def test_the_gradient_is_one_buffer_too():
    pop, (x, y) = population(), ZOO["mlp"].batch()
    gradient = pop.gradient()
    pop.losses(F.cross_entropy, x, y).sum().backward()
    parts = [leaf.grad.flatten() for leaf in pop.leaves.values()]
    assert torch.equal(gradient, torch.cat(parts))
    assert gradient.abs().max() > 0
    gradient.zero_()
    assert all(bool((leaf.grad == 0).all()) for leaf in pop.parameters())


# --- members ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ZOO))
def test_a_member_is_an_ordinary_module_of_its_own(name):
    pop, fresh = population(name), ZOO[name].build()
    member, (x, _) = pop.member(1), ZOO[name].batch()
    assert type(member) is type(fresh)
    assert list(member.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(member.state_dict())
    close(fresh.eval()(x), member.eval()(x))
    close(pop.eval()(x)[1], member(x))
    before = pop.flat.clone()
    for parameter in member.parameters():
        parameter.data.fill_(7.0)
    assert torch.equal(pop.flat, before)


def test_a_view_is_the_member_itself():
    pop = population()
    for parameter in pop.view(2).parameters():
        parameter.data.fill_(7.0)
    assert all(bool((leaf[2] == 7).all()) for leaf in pop.leaves.values())
    assert not any(bool((leaf[1] == 7).any()) for leaf in pop.leaves.values())


@pytest.mark.parametrize("name", list(ZOO))
def test_from_modules_copies_every_member(name):
    modules = [ZOO[name].build() for _ in range(3)]
    pop = ge.Population.from_modules(modules)
    for i, module in enumerate(modules):
        assert same(dict(module.state_dict()), dict(pop.member(i).state_dict()))
    before = pop.flat.clone()
    nn.init.ones_(next(iter(modules[0].parameters())))
    assert torch.equal(pop.flat, before)


@pytest.mark.parametrize("name", list(ZOO))
def test_load_row_gives_one_member_all_tensors_of_a_module(name):
    pop, module = population(name), ZOO[name].build()
    others = [dict(pop.member(i).state_dict()) for i in (0, 2)]
    pop.load_row(-2, module)
    assert same(dict(pop.member(1).state_dict()), dict(module.state_dict()))
    assert all(
        same(dict(pop.member(i).state_dict()), other)
        for i, other in zip((0, 2), others, strict=True)
    )
    nn.init.zeros_(next(iter(module.parameters())))
    assert not same(dict(pop.member(1).state_dict()), dict(module.state_dict()))


@FEW
@given(size=SIZES, data=st.data())
def test_select_keeps_order_and_repeats_and_is_independent(size, data):
    indices = data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=6))
    pop = population("reassigning", size)
    before = {name: tensor.clone() for name, tensor in pop.tensors.items()}
    chosen = pop.select(data.draw(st.sampled_from([indices, torch.tensor(indices)])))
    assert chosen.size == len(chosen) == len(indices)
    assert is_one_buffer(chosen)
    assert all(torch.equal(t, before[name][indices]) for name, t in chosen.tensors.items())
    for tensor in chosen.tensors.values():
        tensor[0] = 5
    assert same(before, pop.tensors)
    assert all(bool((tensor[1:] == 5).sum() == 0) for tensor in chosen.tensors.values())


def test_select_takes_a_mask_and_keeps_modes_engine_and_kind():
    class Special(ge.Population):
        pass

    pop = Special(Frozen, 3, engine="vmap")
    chosen = pop.select(torch.tensor([True, False, True]))
    assert torch.equal(chosen.leaves["head.weight"], pop.leaves["head.weight"][[0, 2]])
    assert chosen.size == 2
    assert isinstance(chosen, Special)
    assert chosen.engine == "vmap"
    assert not chosen.stacked.body.training
    assert chosen.stacked.head.training


def test_loading_a_view_of_the_populations_own_rows_is_not_skipped():
    pop = population()
    first = {name: tensor[:1].clone().expand_as(tensor) for name, tensor in pop.tensors.items()}
    pop.load({name: tensor[:1].expand_as(tensor) for name, tensor in pop.tensors.items()})
    assert same(pop.tensors, first)


# --- computing -------------------------------------------------------------------------------


@FEW
@given(size=SIZES, rows=st.integers(1, 7), per_member=st.booleans())
def test_losses_and_gradients_are_those_of_each_member_alone(size, rows, per_member):
    pop = population("mlp", size, engine="auto")
    x, y = ZOO["mlp"].batch(rows, *([size] if per_member else []))
    outputs = pop(x, per_member=per_member)
    losses = pop.losses(F.cross_entropy, x, y, per_member=per_member)
    assert outputs.shape == (size, rows, 3)
    assert losses.shape == (size,)
    losses.sum().backward()
    for i in range(size):
        member = pop.member(i)
        inputs, targets = (x[i], y[i]) if per_member else (x, y)
        output = member(inputs)
        loss = F.cross_entropy(output, targets)
        loss.backward()
        close(outputs[i], output)
        close(losses[i], loss)
        for name, parameter in member.named_parameters():
            close(pop.leaves[name].grad[i], parameter.grad)


def test_outputs_may_be_trees():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.layer(x), "b": x}

    for engine in ("loop", "vmap"):
        outputs = ge.Population(Two, 4, engine=engine)(torch.ones(5, 2))
        assert {name: t.shape for name, t in outputs.items()} == {"a": (4, 5, 3), "b": (4, 5, 2)}


# --- ties, frozen parts, buffers -------------------------------------------------------------


def test_ties_hold_in_members_after_loading_and_after_training():
    case, pop = ZOO["tied"], population("tied")
    assert pop.structure.trainable == ("encode.weight", "encode.bias", "decode.bias")
    assert learns(pop, case)
    pop.load_row(0, Tied())
    for tied in (pop.member(0), pop.select([1]).member(0), copy.deepcopy(pop).member(2)):
        assert isinstance(tied, Tied)
        assert tied.decode.weight is tied.encode.weight
        assert torch.equal(tied.state_dict()["decode.weight"], tied.encode.weight)


def test_frozen_parts_stay_frozen_and_as_they_were():
    pop = population("frozen")
    frozen = {name: pop.tensors[name].clone() for name in pop.structure.carried}
    assert "body.0.weight" in frozen
    optimizer = torch.optim.AdamW(pop.parameters(), lr=0.1, weight_decay=0.5)
    x, y = ZOO["frozen"].batch()
    for _ in range(3):
        pop.losses(F.cross_entropy, x, y).sum().backward()
        optimizer.step()
    assert same(frozen, {name: pop.tensors[name] for name in frozen})
    for module in (pop.member(0), pop.select([1]).member(0)):
        assert not any(p.requires_grad for p in module.body.parameters())
        assert all(p.requires_grad for p in module.head.parameters())


def test_statistics_are_stacked_and_carried_along():
    pop, (x, _) = population("convolution"), ZOO["convolution"].batch()
    pop(x)
    assert pop.tensors["norm.running_mean"].shape == (3, 4)
    means = pop.tensors["norm.running_mean"]
    assert not torch.allclose(means[0], means[1])
    chosen = pop.select([2])
    assert torch.equal(chosen.member(0).norm.running_mean, means[2])
    assert int(chosen.member(0).norm.num_batches_tracked) == 1


# --- where members start ---------------------------------------------------------------------


def test_members_start_from_different_draws_and_the_generator_decides():
    pop, again, other = population(seed=1), population(seed=1), population(seed=2)
    assert torch.equal(pop.flat, again.flat)
    assert not torch.equal(pop.flat, other.flat)
    for leaf in pop.leaves.values():
        assert not torch.equal(leaf[0], leaf[1])


def test_the_generator_moves_on_so_that_two_populations_differ():
    generator = generator_from(0)
    one, two = (ge.Population(mlp(3, 2), 2, generator=generator) for _ in range(2))
    assert not torch.equal(one.flat, two.flat)


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_states_are_untouched_even_if_build_raises(fails):
    def build() -> nn.Module:
        random.random(), np.random.rand()
        layer = nn.Linear(3, 2)
        if fails:
            raise KeyError("mine")
        return layer

    np.random.randn()  # leaves a second normal number in numpy's cache
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    if fails:
        with pytest.raises(KeyError, match="mine"):
            ge.Population(build, 2)
    else:
        ge.Population(build, 2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]

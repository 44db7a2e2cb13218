"""Batches and held-out rows: all of the data, none of it twice, the same from the same seed."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from gradevo.batches import LoaderSource, Position, TensorSource, rows_of
from gradevo.data import check_labels, prepare
from gradevo.randomness import generator_from

CPU = torch.device("cpu")
NUMBERS = torch.arange(72)


def numbered(count: int = 72, **settings) -> DataLoader:
    """A loader over rows that are their own numbers."""
    rows = torch.arange(count)
    return DataLoader(TensorDataset(rows, -rows), **{"batch_size": 16, **settings})


def drawn(source, steps: int, members: int = 3, *, shared: bool = False, at=None) -> list:
    position = source.start(generator_from(1)) if at is None else at
    return [source.draw(position, members, shared)[0] for _ in range(steps)]


def make(kind: str):
    if kind == "tensors":
        return TensorSource(NUMBERS, -NUMBERS, 16)
    return LoaderSource(numbered(shuffle=kind == "shuffling"))


# --- batches -----------------------------------------------------------------------------------


def test_every_member_goes_through_all_rows_once_an_epoch_in_its_own_order():
    source = TensorSource(NUMBERS, -NUMBERS, 24)
    epochs = torch.cat(drawn(source, 6), dim=1).split(72, dim=1)
    for epoch in epochs:
        assert all(torch.equal(member.sort().values, NUMBERS) for member in epoch)
        assert len({tuple(member.tolist()) for member in epoch}) == 3
    assert not torch.equal(*epochs)


def test_rows_that_do_not_fill_a_batch_are_left_out_of_that_epoch():
    source = TensorSource(NUMBERS, -NUMBERS, 16)
    batches = drawn(source, 8, shared=True)
    assert all(batch.shape == (16,) for batch in batches)
    for epoch in (batches[:4], batches[4:]):
        assert len(torch.cat(epoch).unique()) == 64


@pytest.mark.parametrize("kind", ["tensors", "in order", "shuffling"])
@pytest.mark.parametrize("shared", [True, False])
def test_targets_belong_to_their_inputs_and_a_shared_batch_has_no_member_axis(kind, shared):
    source = make(kind)
    x, y = source.draw(source.start(generator_from(0)), 3, shared)
    assert torch.equal(x, -y)
    assert x.shape == ((16,) if shared else (3, 16))


@pytest.mark.parametrize("kind", ["tensors", "in order", "shuffling"])
@pytest.mark.parametrize("step", range(7))
def test_another_source_goes_on_from_any_position(kind, step):
    source = make(kind)
    position = source.start(generator_from(1))
    drawn(source, step, at=position)
    copy = Position(position.epoch.clone(), position.taken)
    rest = drawn(source, 9, at=position)
    again = drawn(make(kind), 9, at=copy)
    assert all(torch.equal(a, b) for a, b in zip(rest, again, strict=True))


def test_a_source_that_looked_elsewhere_finds_its_way_back():
    straight = drawn(make("shuffling"), 6)
    source = make("shuffling")
    position = source.start(generator_from(1))
    first = drawn(source, 3, at=position)
    drawn(source, 2)
    both = [*first, *drawn(source, 3, at=position)]
    assert all(torch.equal(a, b) for a, b in zip(straight, both, strict=True))


@pytest.mark.parametrize("last", [True, False])
def test_a_loaders_batches_are_dealt_in_turn_without_the_short_one(last):
    source = LoaderSource(numbered(drop_last=last))
    batches = drawn(source, 4, members=2)
    assert torch.equal(torch.cat(batches).flatten()[: 8 * 16], NUMBERS[:64].repeat(2))


def test_a_shuffling_loader_gives_every_row_once_and_another_order_every_pass():
    batches = drawn(make("shuffling"), 8, shared=True)
    passes = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert all(len(each.unique()) == 64 for each in passes)
    assert not torch.equal(*passes)


@pytest.mark.parametrize("own", ["loader", "sampler"])
def test_a_generator_of_the_loaders_own_follows_the_seed(own):
    def batches(seed: int) -> torch.Tensor:
        mine = torch.Generator().manual_seed(seed)
        sampler = RandomSampler(range(72), generator=mine) if own == "sampler" else None
        settings = {"sampler": sampler} if sampler else {"shuffle": True, "generator": mine}
        return torch.stack(drawn(LoaderSource(numbered(**settings)), 5))

    assert torch.equal(batches(1), batches(2))


def test_a_loader_whose_passes_become_empty_is_named():
    source = LoaderSource(numbered(17))
    source.batch_size = 18
    with pytest.raises(ValueError, match=r"a pass .* must give a batch of 18 rows, got none"):
        drawn(source, 1)


def test_rows_of_a_pass_are_the_samplers_where_it_can_tell():
    class Silent(RandomSampler):
        def __len__(self):
            raise NotImplementedError

    assert rows_of(numbered(sampler=range(20))) == 20
    assert rows_of(numbered(sampler=Silent(range(20)))) == 72


# --- held-out rows -----------------------------------------------------------------------------


class Listed(Dataset):
    """Rows that can only be taken one by one, with `targets` as torchvision has them."""

    def __init__(self, labels: list[int]) -> None:
        self.targets = labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        return torch.tensor([float(i)]), self.targets[i]


LABELS = [0] * 60 + [1] * 30 + [2] * 10


def forms() -> dict:
    x, y = torch.arange(100.0).unsqueeze(1), torch.tensor(LABELS)
    return {
        "tensors": (x, y),
        "TensorDataset": TensorDataset(x, y),
        "Dataset": Listed(LABELS),
        "loader": DataLoader(TensorDataset(x, y), batch_size=4),
        "shuffling": DataLoader(Listed(LABELS), batch_size=4, shuffle=True),
    }


def held_out(train, seed: int = 0):
    split = prepare(train, None, batch_size=4, seed=seed, device=CPU)
    return split, split.valid[0].flatten().long()


@pytest.mark.parametrize("form", forms())
def test_a_fifth_is_held_out_by_class_and_never_trained_on(form):
    split, rows = held_out(forms()[form])
    assert torch.bincount(split.valid[1]).tolist() == [12, 6, 2]
    assert split.source.rows == 80
    trained = torch.cat(drawn(split.source, 40, members=1)).unique().long()
    assert not set(trained.tolist()) & set(rows.tolist())
    assert len(trained) == 80


@pytest.mark.parametrize("form", forms())
def test_the_same_seed_holds_out_the_same_rows_and_another_seed_others(form):
    first, again, other = (held_out(forms()[form], seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "y",
    [torch.randn(50), torch.zeros(50, 2).long(), torch.arange(50), torch.tensor([7] + [0] * 49)],
    ids=["regression", "many targets", "all different", "a class of one"],
)
def test_targets_that_cannot_be_split_by_class_are_split_at_random(y):
    split, rows = held_out((torch.arange(50.0).unsqueeze(1), y))
    assert len(rows.unique()) == 10
    assert split.source.rows == 40


class Odd(Listed):
    """With something else under the name `targets`."""

    def __init__(self, targets) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int):
        return torch.tensor([float(i)]), 0


@pytest.mark.parametrize("targets", [None, ["a"] * 100, [[1], [1, 2]], [0, 1], 3])
def test_targets_that_are_no_labels_of_the_rows_are_not_used(targets):
    split, rows = held_out(Odd(targets))
    assert len(rows) == 20
    assert split.source.rows == 80


def test_held_out_rows_of_a_loader_come_through_its_own_collate_function():
    def double(batch):
        return torch.stack([x for x, _ in batch]) * 2, torch.tensor([y for _, y in batch])

    loader = DataLoader(Listed(LABELS), batch_size=4, collate_fn=double, drop_last=True)
    split, rows = held_out(loader)
    assert len(rows) == 20  # the last batch is not dropped where nothing is trained
    assert (rows % 2 == 0).all()
    assert all((batch % 2 == 0).all() for batch in drawn(split.source, 5))


@pytest.mark.parametrize(("replacement", "count"), [(True, 72), (False, 60)])
def test_a_loader_that_draws_rows_in_its_own_way_is_not_split(replacement, count):
    sampler = RandomSampler(range(72), replacement=replacement, num_samples=count)
    with pytest.raises(ValueError, match="valid: must be given"):
        prepare(numbered(sampler=sampler), None, batch_size=4, seed=0, device=CPU)


def test_a_shuffling_validation_loader_gives_the_same_rows_at_every_call():
    generator = torch.Generator()
    loader = numbered(shuffle=True, generator=generator)
    pairs = [
        prepare((NUMBERS, NUMBERS), loader, batch_size=4, seed=0, device=CPU).valid
        for _ in range(2)
    ]
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert torch.equal(pairs[0][0].sort().values, NUMBERS)
    assert torch.equal(pairs[0][0], -pairs[0][1])


def test_tensors_on_a_graph_are_taken_without_it():
    x = torch.randn(20, 2, requires_grad=True)
    split = prepare((x, x * 2), (x, x * 2), batch_size=4, seed=0, device=CPU)
    batch, target = split.source.draw(split.source.start(generator_from(0)), 1, True)
    assert not (batch.requires_grad or target.requires_grad or split.valid[1].requires_grad)


@pytest.mark.parametrize(
    ("label", "fine"), [(0, True), (2, True), (9, True), (3, False), (-1, False)]
)
def test_labels_are_counted_from_nought_except_the_one_that_is_ignored(label, fine):
    y = torch.tensor([0, 1, label])
    if fine:
        check_labels("train", y, classes=3, ignored=9)
    else:
        with pytest.raises(ValueError, match=f"train: labels must be 0..C-1 .*C = 3.*got {label}"):
            check_labels("train", y, classes=3, ignored=9)


def test_rows_that_are_all_ignored_are_no_mistake():
    check_labels("train", torch.full((3,), -100), classes=2, ignored=-100)

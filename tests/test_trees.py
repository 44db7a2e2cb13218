"""Mappings and tuples of tensors: as values, and as data that users hand over."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gradevo as ge
from gradevo import trees
from gradevo.batches import LoaderSource, TensorSource
from gradevo.checks import not_finite
from gradevo.data import prepare
from gradevo.models import mlp
from gradevo.population import Population
from gradevo.problem import Problem
from gradevo.randomness import generator_from
from readers import (
    CLASSES,
    CPU,
    ON_LOGITS,
    QUICK,
    STEPS,
    Reader,
    Sentences,
    equal,
    fit,
    forms,
    points,
    words,
)

# --- trees -------------------------------------------------------------------------------------

LEAVES = st.integers(1, 4).map(lambda width: torch.arange(11 * width).view(11, width))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    ),
    max_leaves=5,
)


@given(TREES, st.integers(1, 12))
def test_chunks_of_rows_one_after_another_are_all_rows(tree, size):
    chunks = trees.chunks(tree, size)
    assert equal(trees.cat(chunks), tree)
    assert sum(map(trees.length, chunks)) == trees.length(tree) == 11
    assert max(map(trees.length, chunks)) <= size


@given(TREES)
def test_members_stacked_and_taken_again_are_the_same(tree):
    other = trees.each(lambda t: t + 1, tree)
    stacked = trees.stack([tree, other])
    assert equal(trees.take(stacked, 0), tree)
    assert equal(trees.take(stacked, 1), other)
    found, together = trees.divided(tree)
    assert equal(together(found), tree)


def test_a_list_of_numbers_is_one_tensor_and_of_tensors_several():
    def tree(value):
        return trees.plain(value, torch.as_tensor)

    rows = torch.zeros(2, 3)
    assert isinstance(tree([[1.0, 2.0], [3.0, 4.0]]), torch.Tensor)
    assert isinstance(tree((1, 2, 3)), torch.Tensor)
    assert isinstance(tree([rows, rows]), tuple)
    assert isinstance(tree((rows.numpy(), rows)), tuple)
    assert isinstance(tree({"a": {"b": [1, 2]}})["a"]["b"], torch.Tensor)


def test_the_prediction_is_the_logits_or_the_first_tensor():
    one, two = torch.zeros(1), torch.ones(1)
    assert trees.prediction(one) is one
    assert trees.prediction({"loss": one, "logits": two}) is two
    assert trees.prediction({"start": one, "end": two}) is one
    assert trees.prediction((two, one)) is two
    with pytest.raises(ValueError, match="must return a tensor"):
        trees.prediction({"logits": "none"})


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", forms())
def test_rows_are_held_out_by_class_whatever_holds_them(form):
    plain = prepare(words(), None, batch_size=8, seed=0, device=CPU)
    split = prepare(forms()[form], None, batch_size=8, seed=0, device=CPU)
    assert equal(split.valid, plain.valid)
    assert type(split.valid[0]) is dict
    counts = torch.bincount(words()[1])
    assert (torch.bincount(split.valid[1]) - counts / 5).abs().max() < 1
    position = split.source.start(generator_from(0))
    x, y = split.source.draw(position, 3, False)
    assert x["ids"].shape == (3, 8, STEPS)
    assert torch.equal(x["ids"][..., 0] % CLASSES, y)


@pytest.mark.parametrize("label", ["labels", "label"])
def test_loaders_and_data_sets_of_mappings_give_inputs_and_targets(label):
    data = Sentences(label=label)
    for train in (data, DataLoader(data, batch_size=8, shuffle=True)):
        split = prepare(train, None, batch_size=8, seed=0, device=CPU)
        assert isinstance(split.source, LoaderSource)
        x, y = split.source.draw(split.source.start(generator_from(0)), 3, False)
        assert x.keys() == {"ids", "mask"}
        assert torch.equal(x["ids"][..., 0] % CLASSES, y)
        assert trees.length(split.valid[0]) == len(split.valid[1]) == 15


def test_a_loader_may_give_several_inputs_and_several_targets():
    (one, two), y = points(32)
    rows = [((one[i], two[i]), {name: t[i] for name, t in y.items()}) for i in range(32)]
    split = prepare(DataLoader(rows, batch_size=4), None, batch_size=4, seed=0, device=CPU)
    x, target = split.source.draw(split.source.start(generator_from(0)), 2, False)
    assert [part.shape for part in x] == [(2, 4, 4), (2, 4, 2)]
    assert target["state"].shape == (2, 4, 5)


class Ragged(Dataset):
    """Sentences of two lengths."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int):
        return {"ids": torch.ones(3 + i // 8, dtype=torch.long), "labels": torch.tensor(0)}


def test_batches_of_other_lengths_need_one_batch_for_all_members():
    source = LoaderSource(DataLoader(Ragged(), batch_size=8))
    position = source.start(generator_from(0))
    with pytest.raises(ValueError, match=r"one shape, .* got \[8, 3\] .* \[8, 4\].*shared_batch"):
        source.draw(position, 2, False)
    shapes = [source.draw(position, 2, True)[0]["ids"].shape for _ in range(2)]
    assert shapes == [(8, 3), (8, 4)]
    loader = DataLoader(Ragged(), batch_size=8)
    with pytest.raises(ValueError, match="valid: all batches must have rows of one shape"):
        prepare(words(), loader, batch_size=4, seed=0, device=CPU)


X, Y = words()
REFUSED = {
    "parts of two lengths": (
        ({**X, "mask": X["mask"][:9]}, Y),
        r"train: all tensors must have one length, got \['ids'\] 72, \['mask'\] 9",
    ),
    "targets of another length": ((X, Y[:9]), "train: x and y must have one length, got 72 and 9"),
    "no labels": (X, "train: a mapping must have .* 'labels' or 'label', got ids, mask; .* pair"),
    "labels only": ({"labels": Y}, "must have its inputs by name .* got labels"),
    "an empty mapping": ({}, "got an empty one"),
    "inputs of none": (({}, Y), "train: must hold at least one tensor, got none"),
    "a part of no rows": (({**X, "at": torch.tensor(1)}, Y), "must have a length and rows"),
    "a part of words": (({**X, "text": ["a"] * 72}, Y), "tensors or arrays of numbers, got list"),
    "no rows": (({"ids": X["ids"][:0]}, Y[:0]), "train: must hold at least one row, got none"),
    "three tensors": (TensorDataset(Y, Y, Y), "a pair of tensors .* got tuple"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_data_is_named_before_work_starts(what):
    data, message = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=message):
        fit(QUICK, train=data)


BATCHES = {
    "no labels": ({"ids": torch.zeros(8, 5)}, "'labels' or 'label', got ids"),
    "words": ({"text": ["a"] * 8, "labels": torch.zeros(8)}, r"got \(dict of text, Tensor\)"),
    "two lengths": (
        {"ids": torch.zeros(8, 5), "mask": torch.zeros(7, 5), "labels": torch.zeros(8)},
        r"one length, got \['ids'\] 8, \['mask'\] 7",
    ),
    "three tensors": ([torch.zeros(8)] * 3, r"got \(Tensor, Tensor, Tensor\)"),
}


@pytest.mark.parametrize("what", BATCHES)
def test_a_bad_batch_of_a_loader_is_named(what):
    batch, message = BATCHES[what]
    loader = DataLoader(range(16), batch_size=8, collate_fn=lambda rows: batch)
    with pytest.raises(ValueError, match=f"valid: .*{message}"):
        prepare(words(), loader, batch_size=4, seed=0, device=CPU)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({**X, "extra": Y}, r"Reader.forward takes, got ids, mask, extra: .*'extra'"),
        ({"mask": X["mask"]}, r"Reader.forward takes, got mask: missing .*'ids'"),
        (
            (X["ids"], X["mask"], Y, Y),
            "Reader.forward takes, got 4 tensors by position: too many positional",
        ),
    ],
)
def test_inputs_that_the_module_does_not_take_are_named_before_work_starts(x, message):
    with pytest.raises(TypeError, match=f"train: x must be what {message}"):
        fit(QUICK, train=(x, Y))


def test_labels_that_are_no_classes_are_named_and_a_loss_of_ones_own_is_left_alone():
    class Reversed(nn.CrossEntropyLoss):
        """Of more classes than the logits have columns: it looks at the state."""

        def forward(self, output, target):
            return super().forward(output["state"], target)

    x, y = words()
    for loss in (ON_LOGITS, ge.SwarmLoss(nn.CrossEntropyLoss())):
        with pytest.raises(ValueError, match=r"labels must be 0\.\.C-1 .* C = 3 outputs, got 4"):
            fit(QUICK, train=(x, 2 * y), loss=loss)
    assert fit(QUICK, train=(x, 2 * y), loss=Reversed())


def test_modules_that_change_a_part_of_their_input_are_refused():
    class Writing(Reader):
        def forward(self, ids, mask):
            mask.fill_(1)
            return super().forward(ids, mask)

    with pytest.raises(ValueError, match="leave their input as it is"):
        fit(QUICK, build=Writing)


def test_nan_in_a_part_of_the_inputs_is_found():
    x = {"input": torch.randn(48, 4), "other": torch.zeros(48, 2)}
    y = torch.zeros(48, 3)
    pop = Population(mlp(4, 3), 2)
    rows = trees.take((x, y), slice(8))
    bad = trees.each(torch.clone, x)
    bad["other"][7] = torch.nan
    assert not_finite(Problem(pop, F.mse_loss, TensorSource(x, y, 8), rows)) == ""
    assert not_finite(Problem(pop, F.mse_loss, TensorSource(bad, y, 8), rows)) == "train"

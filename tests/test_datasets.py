"""What the data sets promise: honest splits, encoding learnt from training rows."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataset_files import FEW, NAMES, flowers, parts, write, write_digits, write_idx
from gradevo.datasets import DataError, available, load
from gradevo.datasets.idx import read_idx, read_idx_folder
from gradevo.datasets.sources import class_names
from gradevo.datasets.splits import split_rows
from gradevo.datasets.tables import Table

# --- the built-in data sets ---------------------------------------------------------------


@pytest.mark.parametrize("known", available(), ids=NAMES)
def test_a_built_in_set_is_what_the_list_says(known):
    data = load(known.name)
    assert data.name == known.name
    assert data.inputs == (known.inputs,)
    assert len(data.classes) == known.classes
    assert sum(len(y) for _, y in parts(data)) == known.rows


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_finite_float32_and_labels_are_int64_class_indices(name):
    data = load(name)
    for x, y in parts(data):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert len(x) == len(y) and bool(x.isfinite().all())
        assert set(y.tolist()) == set(range(len(data.classes)))


def test_the_list_of_names_needs_neither_torch_nor_scikit_learn():
    folder = Path(sys.modules["gradevo.datasets"].__path__[0])
    code = (
        "import sys, types; parent = sys.modules['gradevo'] = types.ModuleType('gradevo');"
        f"parent.__path__ = [{str(folder.parent)!r}];"
        "import gradevo.datasets as d; d.available(); d.DataError;"
        "sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    import gradevo.datasets

    with pytest.raises(AttributeError, match="lode"):
        _ = gradevo.datasets.lode


# --- splits -------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 2**32 - 1))
def test_the_same_seed_gives_the_same_split(seed):
    for (x, y), (again_x, again_y) in zip(
        parts(load("iris", seed=seed)), parts(load("iris", seed=seed)), strict=True
    ):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_another_seed_gives_another_split():
    assert not torch.equal(load("iris", seed=0).test[0], load("iris", seed=1).test[0])


def test_a_split_leaves_the_global_random_state_alone():
    legacy, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    load("iris", seed=3)
    assert np.array_equal(np.random.get_state()[1], legacy)
    assert torch.equal(torch.get_rng_state(), torch_state)


@FEW
@given(
    y=st.lists(st.integers(0, 3), min_size=20, max_size=60).filter(lambda y: len(set(y)) > 1),
    seed=st.integers(0, 100),
    valid_share=st.floats(0.05, 0.3),
    test_share=st.floats(0.05, 0.3),
)
def test_the_three_parts_are_all_rows_once(y, seed, valid_share, test_share):
    try:
        split = split_rows(np.array(y), seed=seed, valid_share=valid_share, test_share=test_share)
    except DataError as error:
        assert "training part" in str(error)
        return
    assert sorted(np.concatenate(split).tolist()) == list(range(len(y)))
    assert all(len(part) for part in split)


def test_every_part_keeps_the_proportions_of_the_classes():
    y = np.repeat([0, 1], [80, 20])
    for part in split_rows(y, seed=5, valid_share=0.25, test_share=0.2):
        assert np.mean(y[part]) == pytest.approx(0.2)


def test_shares_are_of_all_rows_for_test_and_of_the_rest_for_validation():
    data = load("iris", test_share=0.4, valid_share=0.1)
    assert [len(y) for _, y in parts(data)] == [81, 9, 60]


def test_a_class_with_a_single_row_does_not_stop_the_split(tmp_path):
    rows = [f"{i},{'c' if i == 0 else 'ab'[i % 2]}" for i in range(30)]
    data = load(write(tmp_path / "rare.csv", "size,kind", rows))
    assert data.classes == ("a", "b", "c")
    assert sum(int((y == 2).sum()) for _, y in parts(data)) == 1


@FEW
@given(st.permutations(["a", "b", "c"]), st.integers(0, 20))
def test_renaming_the_classes_keeps_their_counts(names, seed):
    def counts(labels):
        with TemporaryDirectory() as folder:
            rows = [f"{i},{labels[i % 5 % 3]}" for i in range(50)]
            data = load(write(Path(folder) / "a.csv", "size,kind", rows), seed=seed)
        return [
            dict(Counter(labels.index(data.classes[c]) for c in y.tolist())) for _, y in parts(data)
        ]

    totals = [sum(part.values()) for part in counts(names)]
    assert totals == [32, 8, 10]
    assert sum(map(Counter, counts(names)), Counter()) == {0: 20, 1: 20, 2: 10}
    assert [sum(p.values()) for p in counts(["a", "b", "c"])] == totals


@FEW
@given(st.lists(st.text(max_size=4), min_size=2, max_size=8, unique=True))
def test_the_classes_do_not_depend_on_the_order_of_the_rows(labels):
    labels = tuple(labels) * 2
    assert class_names(labels, "x") == class_names(labels[::-1], "x")
    assert set(class_names(labels, "x")) == set(labels)


# --- tables -------------------------------------------------------------------------------


@FEW
@given(
    x=hnp.arrays(np.float64, (12, 3), elements=st.floats(-1e3, 1e3).map(lambda v: round(v, 3))),
    other=hnp.arrays(np.float64, (6, 3), elements=st.floats(-1e6, 1e6)),
)
def test_rows_outside_the_training_part_change_nothing_in_it(x, other):
    train, rest = np.arange(6), np.arange(6, 12)
    labels = ("a", "b") * 6
    changed = x.copy()
    changed[rest] = other
    before = Table(x, (), labels).fit(train)(train)
    after = Table(changed, (), labels).fit(train)(train)
    assert np.array_equal(before, after)
    assert np.allclose(before.mean(axis=0), 0, atol=1e-4)


def test_numbers_are_standardised_by_the_training_rows_of_a_file(tmp_path):
    data = load(write(tmp_path / "a.csv", "size,colour,kind", flowers()))
    sizes = data.train[0][:, 0]
    assert sizes.mean().item() == pytest.approx(0, abs=1e-6)
    assert sizes.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert data.test[0][:, 0].mean().abs() > 1e-4


def test_words_become_one_column_per_word_of_the_training_rows(tmp_path):
    data = load(write(tmp_path / "a.csv", "size,colour,kind", flowers()))
    assert data.inputs == (3,)
    assert torch.equal(data.train[0][:, 1:].sum(1), torch.ones(len(data.train[0])))


def test_a_word_that_training_never_saw_is_all_zeros(tmp_path):
    path = write(tmp_path / "train.csv", "colour,size,kind", ["red,1,a", "blue,2,b"] * 10)
    test = write(tmp_path / "test.csv", "colour,size,kind", ["green,1,a", "red,2,b"])
    data = load(path, test=test)
    assert data.test[0][0, 1:].tolist() == [0, 0]


@pytest.mark.parametrize("missing", ["", "?", "NA", "nan", "NaN"])
def test_missing_values_take_the_median_or_the_most_frequent_word(tmp_path, missing):
    rows = ["1,red,a", "2,red,b", "9,blue,a"] * 10
    path = write(tmp_path / "train.csv", "size,colour,kind", rows)
    test = write(tmp_path / "test.csv", "size,colour,kind", [f"{missing},{missing},a", "2,red,b"])
    gap, whole = load(path, test=test).test[0]
    assert torch.equal(gap, whole)


def test_a_column_without_any_value_is_constant(tmp_path):
    rows = [f"{i},,{'ab'[i % 2]}" for i in range(20)]
    data = load(write(tmp_path / "a.csv", "size,empty,kind", rows))
    assert data.train[0][:, 1].unique().tolist() == [0]


def test_words_missing_from_all_training_rows_do_not_stop_the_encoding(tmp_path):
    path = write(tmp_path / "train.csv", "size,colour,kind", ["1,,a", "2,,b"] * 10)
    test = write(tmp_path / "test.csv", "size,colour,kind", ["1,red,a", "2,,b"])
    assert bool(load(path, test=test).test[0].isfinite().all())


def test_a_gzipped_file_reads_as_the_plain_one(tmp_path):
    plain = write(tmp_path / "a.csv", "size,colour,kind", flowers())
    zipped = tmp_path / "b.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert torch.equal(load(plain).train[0], load(zipped).train[0])
    assert load(str(zipped)).name == "b"


def test_quotes_blank_lines_spaces_and_a_byte_order_mark_are_read_away(tmp_path):
    path = tmp_path / "a.csv"
    rows = "\r\n".join(f'{i} , "x, y", {"ab"[i % 2]} \r\n' for i in range(20))
    path.write_bytes(("\ufeffsize,note,kind\r\n" + rows).encode())
    data = load(path)
    assert data.classes == ("a", "b") and data.inputs == (2,)


def test_the_target_can_be_any_column(tmp_path):
    path = write(tmp_path / "a.csv", "size,colour,kind", flowers())
    assert load(path, target="colour").classes == ("blue", "red")


def test_labels_that_are_numbers_are_ordered_by_value(tmp_path):
    rows = [f"{i},{(2, 10, 9)[i % 3]}" for i in range(30)]
    assert load(write(tmp_path / "a.csv", "size,kind", rows)).classes == ("2", "9", "10")


def test_a_test_file_is_the_test_part_with_its_columns_in_any_order(tmp_path):
    path = write(tmp_path / "train.csv", "size,kind", [f"{i},{'ab'[i % 2]}" for i in range(20)])
    test = write(tmp_path / "test.csv", "kind,size", ["b,5", "c,7"])
    data = load(str(path), test=str(test), valid_share=0.5)
    assert [len(y) for _, y in parts(data)] == [10, 10, 2]
    assert [data.classes[index] for index in data.test[1].tolist()] == ["b", "c"]


def test_a_file_wins_over_openml_and_a_built_in_name_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "iris", "size,colour,kind", flowers())
    write(tmp_path / "mine", "size,colour,kind", flowers())
    assert load("iris").inputs == (4,)
    assert load(Path("iris")).inputs == load("./iris").inputs == load("mine").inputs == (3,)


# --- images -------------------------------------------------------------------------------


@FEW
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)), st.booleans())
def test_an_idx_file_reads_as_it_was_written(array, zipped):
    with TemporaryDirectory() as folder:
        path = write_idx(Path(folder) / ("a.gz" if zipped else "a"), array)
        assert np.array_equal(read_idx(path, 3), array)


@pytest.mark.parametrize(
    "pattern",
    ["{}-{}-idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte", "{}-{}.idx{}-ubyte.gz"],
)
def test_a_folder_of_idx_files_has_its_own_test_part(tmp_path, pattern):
    data = load(write_digits(tmp_path, pattern))
    assert data.inputs == (1, 5, 4) and data.classes == ("4", "5", "6")
    assert [len(y) for _, y in parts(data)] == [24, 6, 12]
    assert data.test[1].tolist() == [0, 1, 2] * 4


def test_pixels_are_standardised_by_the_training_images(tmp_path):
    data = load(write_digits(tmp_path, train=90))
    assert data.train[0].mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train[0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    raw = torch.from_numpy(read_idx_folder(tmp_path).pixels[-12:] / 255).float()
    shift = data.test[0][:, 0] - raw / (raw.std() / data.test[0].std())
    assert shift.std().item() == pytest.approx(0, abs=1e-5)


def test_images_that_are_all_alike_stay_finite(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((20, 2, 2), 7, np.uint8), labels=[0, 1] * 10)
    assert load(tmp_path / "a.npz").train[0].unique().tolist() == [0]


def test_an_npz_file_of_images_and_labels_is_split(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 3)).astype(np.uint8)
    np.savez_compressed(tmp_path / "faces.npz", images=images, labels=["ann", "bob"] * 20)
    data = load(tmp_path / "faces.npz")
    assert (data.name, data.inputs, data.classes) == ("faces", (1, 3, 3), ("ann", "bob"))

"""Bad data and arguments: one clear line that names argument, rule and value."""

from __future__ import annotations

import gzip
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_files import flowers, line_of, write, write_digits, write_idx
from gradevo import disk
from gradevo.datasets import DataError, load

# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "half", True])
@pytest.mark.parametrize("name", ["valid_share", "test_share"])
def test_a_share_outside_0_to_1_is_refused(name, share):
    with pytest.raises(DataError, match=f"{name} must lie between 0 and 1.*{share}"):
        load("iris", **{name: share})


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None, True])
def test_a_seed_that_is_no_whole_number_in_range_is_refused(seed):
    with pytest.raises(DataError, match=f"seed must be a whole number.*{seed}"):
        load("iris", seed=seed)


def test_a_numpy_number_is_as_good_as_a_python_one():
    assert torch.equal(load("iris", seed=np.int64(3)).test[0], load("iris", seed=3).test[0])


@pytest.mark.parametrize("data", ["", " ", None, 61])
def test_data_that_is_no_name_is_refused(data):
    with pytest.raises(DataError, match="data must be a name, a file or a folder"):
        load(data)


@pytest.mark.parametrize(
    ("header", "rows", "rule"),
    [
        ("size,kind", [], "must hold rows, but holds a header only"),
        ("kind", ["a", "b"], "at least 2 columns separated by commas, but has 1"),
        ("size;kind", ["1;a", "2;b"], "at least 2 columns separated by commas, but has 1"),
        ("size,size,kind", ["1,2,a"] * 9, "all different, but has 'size' 2 times"),
        ("5.1,3.5,setosa", ["4.9,3.0,virginica"] * 9, "column names, but begins with 5.1"),
        ("size,kind", ["1,a", "2,b,c"], "2 fields in every line.*3 in line 3"),
        ("size,kind", ["1,a", "2"], "2 fields in every line.*1 in line 3"),
        ("size,kind", ["1,a", "2,", "3,b"], "label in every row.*'kind' has '' in line 3"),
        ("size,kind", ['1,"a', "2,b"], "must be CSV, but line 3"),
        ("size,kind", ["1,a"] * 9, "at least 2 classes, but has 1"),
        ("size,kind", ["1,a", "2,b", "3,c"], "2 rows or more on average.*3 different labels"),
        ("size,kind", ["1,a", "2,b", "3,a", "4,b"], "training part must have"),
        ("size,kind", ["inf,a", "2,b"] * 9, "column 'size' must hold float32 .* holds inf"),
        ("size,kind", ["1e39,a", "2,b"] * 9, "column 'size' must hold float32 .* holds 1e"),
        (
            "size,price",
            [f"{i},{i % 60}.5" for i in range(180)],
            "60 different fractional numbers; regression is not supported",
        ),
        (
            "name,kind",
            [f"n{i},{'ab'[i % 2]}" for i in range(1100)],
            "column 'name' must hold at most 1000 different words, but holds 1100",
        ),
    ],
)
def test_a_bad_csv_file_is_one_clear_line(tmp_path, header, rows, rule):
    path = write(tmp_path / "bad.csv", header, rows)
    with pytest.raises(DataError, match=rule) as error:
        load(path)
    line_of(error)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.csv", b"", "must hold data, but is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "must hold data, but is empty"),
        ("a.csv.gz", b"size,kind\n1,a\n", "must be gzipped, as its name says"),
        (
            "a.csv.gz",
            gzip.compress(b"size,kind\n1,a\n" * 99, mtime=0)[:-20],
            "gzip file, but is damaged",
        ),
        ("a.csv.gz", b"\x1f\x8bnothing", "gzip file, but is damaged"),
        ("a.csv", b"size,kind\n1,\xff\n", "must be UTF-8 text, but byte 12 is not"),
        ("a.csv", b"\n\n\n", "at least 2 columns"),
        ("a.npz", b"PK\x03\x04nothing", "must be an .npz file, but is damaged"),
        ("a.npz", b"nothing", "must be an .npz file, but is damaged"),
        ("a.npz", b"PK\x05\x06" + bytes(18), "but holds nothing"),
    ],
)
def test_a_file_that_is_damaged_is_one_clear_line(tmp_path, name, content, rule):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rule) as error:
        load(tmp_path / name)
    assert str(tmp_path / name) in line_of(error)


def packed(folder: Path, kind: str) -> Path:
    """A small file of eight million zeros."""
    zeros, place = bytes(2**23), folder / f"a.{kind}"
    if kind == "npz":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", zeros)
        return place
    if kind == "idx":
        write_digits(folder, "{}-{}-idx{}-ubyte")
        (folder / "train-images-idx3-ubyte").unlink()
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(zeros, 1, mtime=0))
        return folder
    place.write_bytes(gzip.compress(zeros, 1, mtime=0))
    return place


@pytest.mark.parametrize("kind", ["csv.gz", "npz", "idx"])
def test_a_packed_file_is_not_read_further_than_it_may_be_long(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(disk, "FLOOR", 2**16)
    path = packed(tmp_path, kind)
    with pytest.raises(DataError, match=r"must hold at most [\d,]+ bytes .* by --max-size"):
        load(path)
    with pytest.raises(DataError, match=r"must hold at most 5,000 bytes"):
        load(path, max_size=5000)


def test_a_pipe_is_read_as_far_as_a_file_may_be_long_and_a_device_that_never_ends(tmp_path):
    pipe = tmp_path / "rows.csv"
    os.mkfifo(pipe)
    rows = "size,kind\n" + "1,a\n2,b\n" * 30
    with subprocess.Popen(["sh", "-c", f"printf '{rows}' > '{pipe}'"]):
        assert load(pipe).classes == ("a", "b")
    with pytest.raises(DataError, match="must hold at most 100,000 bytes"):
        load("/dev/zero", max_size=100_000)


@pytest.mark.parametrize("size", [0, -1, float("nan"), "1"])
def test_a_limit_that_is_none_is_refused(size):
    with pytest.raises(DataError, match="max_size must be a positive number of bytes"):
        load("iris", max_size=size)


def test_a_missing_file_is_named_with_one_that_looks_like_it(tmp_path):
    write(tmp_path / "flowers.csv", "size,colour,kind", flowers())
    with pytest.raises(DataError, match=r"data: .*flowrs.csv.*did you mean 'flowers.csv'"):
        load(tmp_path / "flowrs.csv")


def test_a_missing_test_file_is_blamed_on_the_test_argument(tmp_path):
    path = write(tmp_path / "a.csv", "size,colour,kind", flowers())
    with pytest.raises(DataError, match=r"^test: file '.*none.csv' must exist"):
        load(path, test=tmp_path / "none.csv")


def test_a_test_file_with_other_columns_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", "size,colour,kind", flowers())
    test = write(tmp_path / "b.csv", "size,hue,kind", flowers())
    with pytest.raises(DataError, match=r"test: .* must have the columns of .*colour, hue"):
        load(path, test=test)


def test_a_target_that_is_no_column_lists_the_columns(tmp_path):
    path = write(tmp_path / "a.csv", "size,colour,kind", flowers())
    with pytest.raises(DataError, match=r"'color' .did you mean 'colour'.*size, colour, kind"):
        load(path, target="color")


@pytest.mark.parametrize("argument", ["target", "test"])
def test_arguments_for_csv_files_are_refused_for_other_data(argument):
    with pytest.raises(DataError, match=f"{argument} must be left out for data 'iris'"):
        load("iris", **{argument: "x"})


def test_shares_that_leave_too_few_training_rows_are_refused():
    with pytest.raises(DataError, match="training part must have a row per class"):
        load("iris", test_share=0.99, valid_share=0.5)


def test_a_training_part_of_one_class_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", "size,kind", ["1,a", "2,a"] * 5)
    test = write(tmp_path / "b.csv", "size,kind", ["1,b", "2,a"])
    with pytest.raises(DataError, match="training part must have at least 2 classes"):
        load(path, test=test)


def damage_cut(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def damage_header(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0]))


def damage_magic(folder: Path) -> None:
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"\0\0\x0d\x01" + path.read_bytes()[4:])


def damage_count(folder: Path) -> None:
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(29))


def damage_missing(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").unlink()


def damage_shape(folder: Path) -> None:
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((12, 4, 4)))


def damage_empty(folder: Path) -> None:
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((0, 5, 4)))


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (damage_cut, "must hold 600 bytes .* but holds 599"),
        (damage_header, "header of 16 bytes, but has 6"),
        (damage_magic, "magic number 00000801, but begins with 00000d01"),
        (damage_count, "a label per image, but has 30 images and 29 labels"),
        (damage_missing, "must hold 't10k-images-idx3-ubyte"),
        (damage_shape, r"one shape, but have \(5, 4\) and \(4, 4\)"),
        (damage_empty, "at least 1, but holds 0"),
    ],
)
def test_a_damaged_folder_of_idx_files_is_one_clear_line(tmp_path, damage, rule):
    damage(write_digits(tmp_path, "{}-{}-idx{}-ubyte"))
    with pytest.raises(DataError, match=rule) as error:
        load(tmp_path)
    line_of(error)


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"x": np.zeros(3)}, "must hold 'images' and 'labels', but holds x"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.arange(4)}, "must be uint8 .*float64"),
        ({"images": np.zeros((4, 2), np.uint8), "labels": np.arange(4)}, r"shape \(4, 2\)"),
        ({"images": np.zeros((4, 2, 2), np.uint8), "labels": np.arange(3)}, "must be 4 whole"),
        ({"images": np.zeros((4, 2, 2), np.uint8), "labels": np.zeros(4)}, "float64"),
    ],
)
def test_an_npz_file_with_other_arrays_is_one_clear_line(tmp_path, arrays, rule):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rule) as error:
        load(tmp_path / "a.npz")
    line_of(error)

"""What the data sets promise: honest splits, encoding learnt from training rows, clear errors."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from gradevo.datasets import Data, DataError, available, load
from gradevo.datasets.idx import read_idx, read_idx_folder
from gradevo.datasets.sources import class_names
from gradevo.datasets.splits import split_rows
from gradevo.datasets.tables import Table

NAMES = [known.name for known in available()]
FEW = settings(max_examples=25, deadline=None)


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def flowers(count: int = 40) -> list[str]:
    return [f"{i * 0.5},{'red' if i % 3 else 'blue'},{'ab'[i % 2]}" for i in range(count)]


def write_idx(path: Path, array: np.ndarray) -> Path:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_digits(folder: Path, pattern: str = "{}-{}-idx{}-ubyte.gz", train: int = 30) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", 12)):
        images = rng.integers(0, 256, (count, 5, 4))
        write_idx(folder / pattern.format(part, "images", 3), images)
        write_idx(folder / pattern.format(part, "labels", 1), np.arange(count) % 3 + 4)
    return folder


def parts(data: Data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [data.train, data.valid, data.test]


def line_of(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


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


# --- OpenML, over a local server ----------------------------------------------------------

ARFF = "@RELATION toys\n@ATTRIBUTE size NUMERIC\n@ATTRIBUTE code {1,2}\n@ATTRIBUTE flag {yes,no}\n"
ARFF += "@ATTRIBUTE kind {good,bad}\n@DATA\n"
ARFF += "".join(
    f"{'?' if i == 3 else i},{i % 2 + 1},{'yes' if i % 3 else '?'},{('good', 'bad')[i % 2]}\n"
    for i in range(30)
)


def openml_answers() -> dict[str, bytes]:
    kinds = {"size": "numeric", "code": "nominal", "flag": "nominal", "kind": "nominal"}
    features = [
        {
            "index": str(index),
            "name": name,
            "data_type": kind,
            "is_target": str(name == "kind").lower(),
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "10" if name == "flag" else "0",
        }
        for index, (name, kind) in enumerate(kinds.items())
    ]
    about = {
        "id": "7",
        "name": "toys",
        "version": "1",
        "status": "active",
        "format": "ARFF",
        "description": "Toys.",
        "file_id": "70",
        "url": "https://www.openml.org/data/v1/download/70/toys.arff",
        "md5_checksum": hashlib.md5(ARFF.encode()).hexdigest(),
    }
    api = "/api/v1/json/data"
    texts = {
        f"{api}/list/data_name/toys/limit/2/status/active/": {
            "data": {"dataset": [{"did": 7, "name": "toys", "version": 1, "status": "active"}]}
        },
        f"{api}/7": {"data_set_description": about},
        f"{api}/features/7": {"data_features": {"feature": features}},
        f"{api}/qualities/7": {
            "data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "30.0"}]}
        },
    }
    answers = {path: json.dumps(text).encode() for path, text in texts.items()}
    return answers | {"/data/v1/download/70/toys.arff": ARFF.encode()}


@pytest.fixture
def openml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A real HTTP server that speaks OpenML for one data set; gives the paths it was asked for."""
    answers, asked = openml_answers(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = answers.get(self.path)
            self.send_response(412 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        local = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "cache"))
        monkeypatch.setattr(
            "sklearn.datasets._openml.urlopen",
            lambda request: urllib.request.urlopen(local + urlparse(request.full_url).path),
        )
        yield asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["toys", "7"])
def test_an_openml_data_set_comes_by_name_or_id(openml, name):
    data = load(name)
    assert data.classes == ("bad", "good") and data.name == name
    assert sum(len(y) for _, y in parts(data)) == 30
    assert data.inputs == (1 + 2 + 1,)
    assert all(bool(x.isfinite().all()) for x, _ in parts(data))


def test_an_openml_data_set_comes_from_the_cache_the_second_time(openml):
    first = load("toys")
    count = len(openml)
    assert count > 0 and torch.equal(load("toys").train[0], first.train[0])
    assert len(openml) == count


def test_an_openml_target_can_be_chosen(openml):
    assert load("toys", target="code").classes == ("1", "2")


def test_an_unknown_openml_target_is_one_clear_line(openml):
    with pytest.raises(DataError, match=r"target must be a column .*'toys'.*'price'") as error:
        load("toys", target="price")
    line_of(error)


def test_an_openml_row_without_a_label_is_one_clear_line(openml):
    with pytest.raises(DataError, match="'flag' has 10 missing values") as error:
        load("toys", target="flag")
    line_of(error)


def test_a_name_unknown_to_openml_is_one_clear_line_with_a_suggestion(openml):
    with pytest.raises(DataError, match=r"'irsi'.*did you mean 'iris'.*OpenML") as error:
        load("irsi")
    line_of(error)


def test_no_network_is_one_clear_line_without_warnings(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda seconds: None)
    monkeypatch.setattr(
        "sklearn.datasets._openml.urlopen",
        lambda request: urllib.request.urlopen("http://127.0.0.1:1/"),
    )
    for name in ("credit-g", "31"):
        with pytest.raises(DataError, match=f"'{name}'.*OpenML.*refused") as error:
            load(name)
        line_of(error)


def test_sparse_openml_data_is_refused_in_one_clear_line(monkeypatch):
    sparse = Bunch(data=csr_array(np.eye(4)), target=np.array(["a", "b"] * 2))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **arguments: sparse)
    with pytest.raises(DataError, match="'dorothea' must be dense, but is sparse"):
        load("dorothea")


def test_openml_data_without_a_target_is_refused_in_one_clear_line(monkeypatch):
    bare = Bunch(data=np.eye(4), target=None)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **arguments: bare)
    with pytest.raises(DataError, match="target must name one column of OpenML data 'bare'"):
        load("bare")


def test_an_openml_number_can_be_the_class_but_must_not_be_missing(monkeypatch):
    target = np.array([1.0, 2.0] * 10)
    bunch = Bunch(data=np.eye(20), target=target, feature_names=list("abcdefghijklmnopqrst"))
    bunch.categories = {}
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **arguments: bunch)
    assert load("numbers").classes == ("1", "2")
    target[3] = np.nan
    with pytest.raises(DataError, match="'numbers' must have a label in every row"):
        load("numbers")


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
        ("a.csv.gz", gzip.compress(b"size,kind\n1,a\n" * 99)[:-20], "gzip file, but is damaged"),
        ("a.csv.gz", b"\x1f\x8bnothing", "gzip file, but is damaged"),
        ("a.csv", b"size,kind\n1,\xff\n", "must be UTF-8 text, but byte 12 is not"),
        ("a.csv", b"\n\n\n", "at least 2 columns"),
        ("a.npz", b"PK\x03\x04nothing", "must be an .npz file, but is damaged"),
        ("a.npz", b"nothing", "cannot be read"),
    ],
)
def test_a_file_that_is_damaged_is_one_clear_line(tmp_path, name, content, rule):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rule) as error:
        load(tmp_path / name)
    assert str(tmp_path / name) in line_of(error)


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

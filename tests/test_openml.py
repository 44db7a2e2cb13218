"""Data sets from OpenML, over a local server: found, cached, refused in one clear line."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from dataset_files import line_of, parts
from gradevo.datasets import DataError, load

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

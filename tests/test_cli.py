"""The command, as a person or a script would run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.cli import main
from gradevo.methods import method as method_by_name

COMMON = ["--steps", "20", "--population", "3", "--generations", "1", "--engine", "loop"]


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradevo.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gradevo: ")
    assert len(printed.err.splitlines()) == 1
    return printed.err


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from gradevo.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['compare', '--help'], ['datasets']):\n"
        "    try: main(words)\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_prints_one_json_object_with_everything_a_script_needs() -> None:
    done = run("train", "iris", *COMMON, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    outcome = json.loads(done.stdout)
    assert set(outcome) == {
        "method", "dataset", "accuracy", "loss", "member_steps", "seconds", "engine", "seed",
        "versions",
    }  # fmt: skip
    assert outcome["member_steps"] == 3 * 2 * 20
    assert 0 <= outcome["accuracy"] <= 1
    assert outcome["engine"] == "loop"


def test_train_on_a_csv_file_leaves_a_run_folder_that_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["a,b,kind"]
    rows += [f"{i % 7},{'red' if i % 2 else 'blue'},{'x' if i % 2 else 'y'}" for i in range(80)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    out = tmp_path / "run"
    arguments = ["train", str(table), *COMMON, "--out", str(out)]
    main([*arguments, "--json"])
    first = json.loads(capsys.readouterr().out)
    assert first["accuracy"] == 1.0
    names = {path.name for path in out.iterdir()}
    assert names == {"checkpoint.safetensors", "history.json", "log.jsonl", "result.safetensors"}
    assert "add --resume" in error_of(arguments, capsys)
    main([*arguments, "--resume", "--json"])
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_compare_gives_every_method_the_same_cost(capsys: pytest.CaptureFixture[str]) -> None:
    methods = "gadam,gadam-paper,adam,adam-best-of,adam-random,adam-ensemble,adaswarm"
    with_population = ["--steps", "6", "--population", "2", "--generations", "1"]
    main(["compare", "iris", "--methods", methods, "--seeds", "2", "--json", *with_population])
    report = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in report["summary"]] == methods.split(",")
    assert {row["member_steps"] for row in report["summary"]} == {2 * 2 * 6}
    assert len(report["runs"]) == 14
    assert report["summary"][0]["accuracy_p"] is None


@pytest.mark.parametrize(
    ("method", "loss"), [("adaswarm", "zero-one"), ("adaswarm-paper", "mae"), ("gadam", "mse")]
)
def test_train_takes_a_loss_by_name_and_reports_it_on_test_rows(
    method: str, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "iris", "--method", method, "--loss", loss, *COMMON, "--json"])
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["method"] == method
    if loss == "zero-one":
        assert outcome["loss"] == pytest.approx(1 - outcome["accuracy"])
    assert 0 <= outcome["loss"] <= 1


@pytest.mark.parametrize(
    ("loss", "scope", "bounds"),
    [("cross-entropy", "row", None), ("mae", "auto", (0.0, 1.0)), ("f1", "batch", (0.0, 1.0))],
)
def test_what_the_loss_is_decides_how_the_swarm_searches(loss, scope, bounds) -> None:
    algorithm = method_by_name("adaswarm", loss, steps=10, population=3, generations=1).algorithm
    assert isinstance(algorithm, AdaSwarm)
    assert (algorithm.scope, algorithm.bounds) == (scope, bounds)
    assert algorithm.steps == 2 * 3 * 10  # one run at the cost of the population


def test_the_papers_method_takes_the_papers_network(tmp_path: Path) -> None:
    arguments = ["train", "iris", "--method", "adaswarm-paper", "--loss", "mae", *COMMON]
    main([*arguments, "--out", str(tmp_path / "run"), "--json"])
    tensors = load_file(tmp_path / "run" / "result.safetensors")
    assert any(tensor.shape[1:] == (10, 4) for tensor in tensors.values())  # one hidden layer of 10


def test_compare_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "iris", "--methods", "gadam,adam", "--seeds", "1", *COMMON])
    printed = capsys.readouterr().out
    assert "adam" in printed
    assert "120 member-steps each" in " ".join(printed.split())


def test_datasets_lists_the_built_in_names(capsys: pytest.CaptureFixture[str]) -> None:
    main(["datasets"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("digits", "iris", "wine", "breast_cancer"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "iris", "--method", "adamm"], "method: must be one of"),
        (["train", "iris", "--lr", "-1"], "lr: must be"),
        (["train", "iris", "--loss", "hinge"], "loss: must be one of"),
        (["train", "iris", "--loss", "f1"], "loss: must have a gradient for gadam"),
        (["train", "iris", "--population", "1"], "population: must be"),
        (["train", "iris", "--steps", "many"], "--steps"),
        (["train", "iris", "--no-such-option", "1"], "--no-such-option"),
        (["train", "iris", "--hidden", "a,b"], "hidden: must be sizes"),
        (["train", "iris", "--engine", "warp"], "engine: must be one of"),
        (["train", "iris", "--resume"], "resume: needs --out"),
        (["train", "no/such/file.csv"], "no/such/file.csv"),
        (["train", "iris", "--batch-size", "4000"], "batch_size: must be at most"),
        (["compare", "iris", "--methods", "gadam,nonsense"], "method: must be one of"),
        (["compare", "iris", "--seeds", "0"], "seeds: must be at least 1"),
        (["train"], "DATA"),
        (["trian", "iris"], "trian"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said.lower() in error_of(arguments, capsys).lower()


def test_a_wrong_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "1,x\n2,y\n" * 20)
    assert "nope" in error_of(["train", str(table), "--target", "nope"], capsys)

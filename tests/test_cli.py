"""The command, as a person or a script would run it."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.algorithms.gemonn import GEMONN
from gradevo.cli import main
from gradevo.methods import method as method_by_name
from gradevo.networks import Network

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


def test_several_processes_print_and_leave_what_one_does(tmp_path: Path) -> None:
    settings = ["train", "iris", *COMMON, "--json"]
    alone = run(*settings, "--out", str(tmp_path / "one"))
    two = run(*settings, "--processes", "2", "--out", str(tmp_path / "two"))
    first, second = (json.loads(done.stdout) for done in (alone, two))
    for name in ("accuracy", "loss", "member_steps", "engine"):
        assert first[name] == second[name]
    kept = [load_file(tmp_path / name / "result.safetensors") for name in ("one", "two")]
    assert kept[0].keys() == kept[1].keys()
    assert (tmp_path / "two" / "generation-000001" / "head.safetensors").exists()
    again = run(*settings, "--processes", "2", "--out", str(tmp_path / "two"))
    assert again.returncode == 2 and "add --resume" in again.stderr
    more = [*settings, "--out", str(tmp_path / "two"), "--resume", "--processes=1"]
    assert json.loads(run(*more).stdout)["loss"] == first["loss"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by ps")
def test_whoever_stops_the_command_stops_all_its_processes(tmp_path: Path) -> None:
    def theirs() -> list[str]:
        listed = subprocess.run(["ps", "-e", "-ww", "-o", "args="], capture_output=True, text=True)
        return [line for line in listed.stdout.splitlines() if str(tmp_path) in line]

    def wait_until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < end, theirs()
            time.sleep(0.2)

    command = [sys.executable, "-m", "gradevo.cli", "train", "iris", "--steps", "500"]
    command += ["--population", "4", "--generations", "500", "--processes", "2", "--engine", "loop"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists())
    assert len(theirs()) == 3  # torchrun and its two
    process.terminate()
    wait_until(lambda: process.poll() is not None and not theirs())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--processes", "4"], "population: must be at least the number of processes, 4, got 3"),
        (["--processes", "0"], "processes: must be at least 1, got 0"),
        (["--processes", "2", "--method", "adam"], "algorithm: must be GADAM"),
        (["--islands", "2", "--method", "adam"], "algorithm: must be a GADAM"),
        (["--islands", "0"], "islands: must be a whole number of at least 2, got 0"),
    ],
)
def test_processes_that_cannot_share_are_refused_before_they_start(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in error_of(["train", "iris", *COMMON, *words], capsys)
    wrong = ["train", "iris", "--processes", "2", "--engine", "none"]
    assert "engine: must be one of" in error_of(wrong, capsys)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from gradevo.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['front', '--help'], ['datasets']):\n"
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
    assert names == {
        ".lock", "checkpoint.safetensors", "history.json", "log.jsonl", "result.safetensors",
        "run.json",
    }  # fmt: skip
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


def test_compare_shows_the_costs_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "iris", "--methods", "adam,gemonn", "--seeds", "1", *COMMON])
    printed = " ".join(capsys.readouterr().out.split())
    assert "member-steps each" not in printed
    assert "member-steps" in printed
    assert "120" in printed  # 3 members, 2 phases, 20 steps; a generation of GEMONN is one child


def test_compare_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "iris", "--methods", "gadam,adam", "--seeds", "1", *COMMON])
    printed = capsys.readouterr().out
    assert "adam" in printed
    assert "120 member-steps each" in " ".join(printed.split())


# --- fronts ------------------------------------------------------------------------------------

FRONT = ["--method", "gemonn", "--population", "30", "--generations", "60", "--steps", "10"]
FRONT += ["--engine", "loop"]  # "auto" takes the fastest, which is not always the same


@pytest.fixture(scope="module")
def front_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("front") / "run"
    main(["train", "iris", *FRONT, "--out", str(out)])
    return out


def printed_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    main(arguments)
    return capsys.readouterr().out


def test_train_prints_the_picks_on_test_rows_and_some_lines_of_the_front(
    front_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = printed_by(["train", "iris", *FRONT, "--out", str(front_run), "--resume"], capsys)
    words = " ".join(printed.split())
    assert "gemonn " in words
    assert "gemonn, knee" in words
    assert 4 <= len([line for line in printed.splitlines() if line.startswith("|")]) <= 2 + 10
    assert "knee |" in printed


def test_a_front_resumes_to_the_same_numbers_and_only_with_the_same_plan(
    front_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "iris", *FRONT, "--out", str(front_run), "--resume"]
    before = load_file(front_run / "result.safetensors")
    again = json.loads(printed_by([*arguments, "--json"], capsys))
    assert {"accuracy", "loss", "knee", "front", "member_steps", "versions"} <= set(again)
    assert again["method"] == "gemonn"
    assert again["member_steps"] >= 60 * 10
    assert set(again["knee"]) == {"accuracy", "loss"}
    assert {"sparsity", "nonzeros", "loss", "accuracy"} <= set(again["front"][0])
    after = load_file(front_run / "result.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    longer = ["61" if word == "60" else word for word in arguments]
    assert "generations is 60" in error_of(longer, capsys)


def test_a_front_that_was_stopped_half_way_resumes_to_that_of_a_whole_run(
    front_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    arguments = ["train", "iris", *FRONT, "--out", str(tmp_path / "run")]
    step = GEMONN.step

    def stopping(self, problem, state):
        if state.generation == 30:
            raise KeyboardInterrupt
        return step(self, problem, state)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(GEMONN, "step", stopping)
        main(arguments)
    assert stop.value.code == 130
    capsys.readouterr()
    assert "run: must be" in error_of(["front", str(tmp_path / "run")], capsys)
    main([*arguments, "--resume"])
    whole = load_file(front_run / "result.safetensors")
    resumed = load_file(tmp_path / "run" / "result.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_front_prints_the_table_and_what_was_picked(
    front_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = printed_by(["front", str(front_run)], capsys)
    report = json.loads(printed_by(["front", str(front_run), "--json"], capsys))
    assert set(report) == {"front", "knee", "best", "picked", "versions"}
    rows = report["front"]
    assert len([line for line in printed.splitlines() if line.startswith("|")]) == 2 + len(rows)
    assert f"{rows[report['knee']]['nonzeros']} non-zeros" in printed
    assert report["picked"] == report["knee"]
    assert rows == sorted(rows, key=lambda row: row["nonzeros"])


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        (["--pick", "best"], "best"),
        (["--pick", "knee"], "knee"),
        (["--pick", "sparsest"], 0),
        (["--max-loss", "1000"], 0),
        (["--min-sparsity", "0"], "best"),
    ],
)
def test_front_writes_the_picked_networks_state_dict(
    pick: list[str],
    expected: str | int,
    front_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "model.safetensors"
    arguments = ["front", str(front_run), *pick, "--out", str(out), "--json"]
    report = json.loads(printed_by(arguments, capsys))
    wanted = report[expected] if isinstance(expected, str) else expected
    assert report["picked"] == wanted
    network = Network((4,), 3)()
    network.load_state_dict(load_file(out))
    weights = [p for p in network.parameters() if p.dim() > 1]
    count = sum(int((weight != 0).sum()) for weight in weights)
    assert count == report["front"][wanted]["nonzeros"]


def test_front_draws_the_front(
    front_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "front.png"
    assert "Figure: " in printed_by(["front", str(front_run), "--plot", str(figure)], capsys)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_front_that_is_not_there_or_cannot_be_picked_from_is_one_line(
    front_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    run_folder = str(front_run)
    for arguments, said in (
        ([str(tmp_path)], "run: must be the folder of a finished run"),
        ([run_folder, "--pick", "worst"], "pick: must be one of knee, best, sparsest"),
        ([run_folder, "--max-loss", "-1"], "max_loss: must be at least"),
        ([run_folder, "--min-sparsity", "2"], "min_sparsity: must lie in [0, 1]"),
        ([run_folder, "--min-sparsity", "1"], "min_sparsity: must be at most"),
        ([run_folder, "--pick", "knee", "--max-loss", "1"], "max_loss: must go with"),
        ([run_folder, "--plot", str(tmp_path / "a.xyz")], "path: must end in one of"),
        ([run_folder, "--out", str(front_run / "log.jsonl" / "a")], "writable"),
    ):
        assert said in error_of(["front", *arguments], capsys)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plot = ["front", run_folder, "--plot", str(tmp_path / "a.png")]
    assert "pip install 'gradevo[plot]'" in error_of(plot, capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_result_of_another_method_is_no_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "iris", *COMMON, "--out", str(tmp_path / "run"), "--json"])
    capsys.readouterr()
    assert "must hold a front" in error_of(["front", str(tmp_path / "run")], capsys)


@pytest.mark.parametrize(("method", "loss"), [("gemonn-paper", "cross-entropy"), ("gemonn", "mse")])
def test_both_searches_take_every_loss_that_has_a_gradient(
    method: str, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--population", "4", "--generations", "2", "--json"]
    short += [] if method == "gemonn-paper" else ["--steps", "5"]
    arguments = ["train", "iris", "--method", method, "--loss", loss, *short]
    outcome = json.loads(printed_by(arguments, capsys))
    assert outcome["method"] == method
    assert all(0 <= row["accuracy"] <= 1 for row in outcome["front"])
    refused = ["train", "iris", "--method", method, "--loss", "f1", *short]
    assert f"loss: must have a gradient for {method}" in error_of(refused, capsys)


# --- mistakes and lists ------------------------------------------------------------------------


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


def test_no_command_writes_over_a_runs_own_files(
    front_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = str(front_run / "result.safetensors")
    for command in ("front", "report"):
        assert "the run's own result.safetensors" in error_of(
            [command, str(front_run), "--out", own], capsys
        )
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(own, kept)
    assert "add --resume" in error_of(["train", "iris", *COMMON, "--out", str(kept)], capsys)


def test_a_path_that_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "too long" in error_of(["front", "a" * 300], capsys)


def test_a_method_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["compare", "iris", *COMMON, "--methods", "gadam,gadam"]
    assert "must be different ones" in error_of(methods, capsys)

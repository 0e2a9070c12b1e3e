"""Rows of a study on disk: a file that an older version began is read, and goes on with further columns."""

from __future__ import annotations

import csv
import multiprocessing
import threading
from pathlib import Path

from study_parts import FEW, append_some

from examples.benchmarks.interventions import FIELDS, RESULTS, Benchmark, Config
from examples.benchmarks.rlif_rows import Rows


def test_an_older_file_is_read_and_gets_the_new_columns_at_its_end(tmp_path: Path) -> None:
    """Guards measured rows against a study that is run on by a newer version: days of computing."""
    path = tmp_path / "deep" / "rows.csv"
    older, newer = Rows(path, ("task", "seed", "score"), 2), Rows(path, ("task", "seed", "score", "judge"), 2)
    older.append({"task": "reach", "seed": 1, "score": 0.5, "passed over": 1})
    assert newer.read() == [{"task": "reach", "seed": "1", "score": "0.5", "judge": ""}]
    newer.append({"task": "reach", "seed": 2, "score": 0.7, "judge": "oracle"})
    assert path.read_text().splitlines() == ["task,seed,score,judge", "reach,1,0.5,", "reach,2,0.7,oracle"]
    assert newer.done() == {("reach", "1"), ("reach", "2")} and [row["score"] for row in older.read()] == ["0.5", "0.7"]


def test_a_newer_file_keeps_its_columns_under_an_older_version(tmp_path: Path) -> None:
    """Guards against values that land in other columns: the file's own order counts, whoever writes."""
    path = tmp_path / "rows.csv"
    Rows(path, ("seed", "judge", "score"), 1).append({"seed": 1, "judge": "oracle", "score": 3})
    Rows(path, ("seed", "score"), 1).append({"seed": 2, "score": 4})
    with path.open("a") as file:
        file.write("3\n")  # what a version wrote that knew one column
    rows = Rows(path, ("seed", "score"), 1).read()
    assert [(row["seed"], row["score"], row["judge"]) for row in rows] == [
        ("1", "3", "oracle"), ("2", "4", ""), ("3", "", ""),
    ]  # fmt: skip


def test_a_row_that_was_measured_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """Guards against a run counted twice by whoever reads the file, once with a budget that it was too small for."""
    path = tmp_path / "rows.csv"
    rows = Rows(path, ("task", "seed", "steps", "mean"), 2)
    for seed, steps in ((1, 8), (2, 8), (1, 16)):
        rows.append({"task": "reach", "seed": seed, "steps": steps, "mean": None})
    assert path.read_bytes() == b"task,seed,steps,mean\r\nreach,1,16,\r\nreach,2,8,\r\n"
    assert [(row["seed"], row["steps"]) for row in rows.read()] == [("1", "16"), ("2", "8")]


def test_of_rows_that_others_wrote_twice_the_last_counts(tmp_path: Path) -> None:
    """Guards reports against rows of several machines that somebody put into one file by hand."""
    path = tmp_path / "rows.csv"
    path.write_text("seed,steps\n1,8\n2,8\n1,16\n")
    assert Rows(path, ("seed", "steps"), 1).read() == [{"seed": "1", "steps": "16"}, {"seed": "2", "steps": "8"}]


def test_processes_that_append_to_one_file_lose_no_row(tmp_path: Path) -> None:
    """Guards studies that run side by side: each writes the whole file, and none may write over what another wrote."""
    path, each = tmp_path / "rows.csv", 40
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_some, args=(path, name, each)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert Rows(path, FEW, 2).done() == {(name, str(seed)) for name in "abc" for seed in range(each)}
    assert [found.name for found in tmp_path.iterdir()] == ["rows.csv"]


def test_a_reader_beside_a_writer_finds_whole_rows(tmp_path: Path) -> None:
    """Guards a kill and a report while a study runs: the file is what it was, or what it is to be, at any moment."""
    path = tmp_path / "rows.csv"
    writer = threading.Thread(target=append_some, args=(path, "a", 60))
    writer.start()
    seen = [0]
    while writer.is_alive():
        found = Rows(path, FEW, 2).read()
        assert all(row["score"] == "1.5" for row in found) and len(found) >= seen[-1]
        seen.append(len(found))
    writer.join()
    assert len(Rows(path, FEW, 2).read()) == 60


def test_no_row_of_the_committed_results_is_there_twice() -> None:
    """Guards whoever reads them with a plain CSV reader: two budgets of one run would both count."""
    for name, key in (("interventions", 4), ("rlif", 5), ("rlif-experts", 2)):
        with (RESULTS / f"{name}.csv").open(newline="") as file:
            names = [tuple(row[:key]) for row in csv.reader(file)]
        assert len(names) == len(set(names)), name


def test_a_run_that_never_got_there_is_run_again_with_a_larger_budget_and_only_then(tmp_path: Path) -> None:
    """Guards against hours spent again on rows that are known, and against a comparison that its budget cuts off."""
    row = {"task": "peg_insertion", "method": "alone", "expert": "none", "env_steps": 8_000}
    rows = Rows(tmp_path / "interventions.csv", FIELDS, 4)
    rows.append({**row, "seed": 1, "crossed": True})
    rows.append({**row, "seed": 2, "crossed": False})
    for budget, missing in ((8_000, [3]), (16_000, [2, 3])):
        benchmark = Benchmark(Config(results=tmp_path, env_steps=budget))
        assert [seed for seed in (1, 2, 3) if not benchmark.has("alone", seed)] == missing
    assert not benchmark.has("hil", 1)

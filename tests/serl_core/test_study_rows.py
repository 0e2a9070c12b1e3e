"""Rows of a study on disk: a file that an older version began is read, and goes on with further columns."""

from __future__ import annotations

from pathlib import Path

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

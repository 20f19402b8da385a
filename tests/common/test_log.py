"""Laws of tables and results: aligned, not too wide, json without nan."""

import json
import math

from farfield.common.log import RunLog, format_table, write_json

ROWS = [{"row": "model", "error": 1.23456, "steps": 7}, {"row": "baseline", "error": 10.0}]


def test_columns_are_aligned():
    assert format_table(ROWS).splitlines() == [
        "row       error  steps",
        "model     1.235      7",
        "baseline     10",
    ]


def test_a_wide_table_is_turned():
    rows = [{"row": name} | {f"metric_{i}": i + 0.5 for i in range(20)} for name in ("a", "b")]
    lines = format_table(rows).splitlines()
    assert len(lines) == 21 and max(map(len, lines)) <= 120
    assert lines[0].split() == ["row", "a", "b"] and lines[1].split() == ["metric_0", "0.5", "0.5"]


def test_a_log_is_appended_to_its_file(tmp_path, capsys):
    log = RunLog(tmp_path / "log.txt")
    log("one")
    RunLog(tmp_path / "log.txt")("two")
    assert (tmp_path / "log.txt").read_text() == capsys.readouterr().out == "one\ntwo\n"


def test_json_has_null_where_a_number_is_not_finite(tmp_path):
    write_json(tmp_path / "a.json", {"x": [math.nan, 1.0], 3: math.inf})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.0], "3": None}

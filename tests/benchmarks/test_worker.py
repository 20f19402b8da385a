"""A worker answers in turn, passes over what is no answer, and says so when its program ends."""

import sys

import pytest

from benchmarks.worker import Worker

ECHO = """
import json, os, sys
print("a note of some library")
print(json.dumps({"threads": os.environ["OMP_NUM_THREADS"]}), flush=True)
for line in sys.stdin:
    if line == "end\\n":
        break
    print("another note")
    print(json.dumps({"heard": line.strip()}), flush=True)
"""


def test_answers_follow_requests_and_the_end_is_one_line():
    with Worker([sys.executable, "-c", ECHO], "see its text") as worker:
        assert worker.ask("one") == {"heard": "one"}
        assert worker.start == {"threads": "1"}
        assert worker.ask("two") == {"heard": "two"}
        with pytest.raises(RuntimeError, match="ended without an answer; see its text"):
            worker.ask("end")
    assert worker._process.returncode is not None


def test_a_missing_program_is_one_line():
    with pytest.raises(FileNotFoundError, match="no program absent-python"):
        Worker(["absent-python", "script.py"], "")

"""Every outcome of a reader is told from the others, and the next input is read after it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.reliability.guarded_reader import OUTCOMES, GuardedReader, sing


def reader_by_name(path: Path) -> list[int]:
    """Does what the name of its file says."""
    match path.name:
        case "refused":
            raise ValueError(f"{path} is damaged")
        case "unnamed":
            raise ValueError("something is damaged")
        case "traceback":
            return [1][7:][0]
        case "hang":
            time.sleep(60)
        case "memory":
            return len(bytearray(1 << 33))
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "code":
            sing()
    return [len(path.name)]


@pytest.fixture(scope="module")
def reader():
    with GuardedReader(reader_by_name, seconds=1.0, memory=1 << 30) as found:
        yield found


@pytest.mark.parametrize("kind", OUTCOMES)
def test_each_outcome_has_its_name(reader, kind, tmp_path):
    assert reader.outcome(tmp_path / kind).kind == kind
    assert reader.outcome(tmp_path / "four").kind == "read"


def test_a_program_that_is_started_is_noticed(tmp_path):
    with GuardedReader(lambda path: os.system("true")) as reader:
        found = reader.outcome(tmp_path)
    assert found.kind == "code" and "os.system" in found.words


def test_values_are_compared_by_every_bit(reader, tmp_path):
    values = [reader.outcome(tmp_path / name).value for name in ("four", "five", "seven")]
    assert values[0] == values[1] != values[2]

"""One process at a time in a folder, whatever becomes of the process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from farfield.common.folder_lock import only_process

HOLD = """
import sys, time
from farfield.common.folder_lock import only_process
with only_process(sys.argv[1]):
    open(sys.argv[1] + "/content", "w").close()
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def inside(tmp_path):
    """Another process in the folder ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "inside\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_has_ended(inside, tmp_path):
    folder = tmp_path / "run"
    refused = pytest.raises(ValueError, match="run is in use by another process; .* --out")
    with refused as error, only_process(folder, "--out"):
        pytest.fail("two are inside")
    assert "\n" not in str(error.value) and folder.is_dir()

    # a killed process holds nothing
    inside.send_signal(signal.SIGKILL)
    inside.wait()
    with only_process(folder):
        pass
    assert [one.name for one in folder.iterdir()] == ["content"]


def test_a_folder_that_stays_empty_goes_again(tmp_path):
    with pytest.raises(KeyError), only_process(tmp_path / "runs" / "one"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with only_process(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "content").touch()
    assert (tmp_path / "runs" / "one" / "content").exists()


def test_a_file_in_the_place_of_the_folder_is_left_to_others(tmp_path):
    (tmp_path / "file").touch()
    with only_process(tmp_path / "file"):
        pass
    assert (tmp_path / "file").is_file()

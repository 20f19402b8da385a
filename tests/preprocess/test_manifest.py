"""The manifest of a preprocessed folder: what is finished is not made again, what does not fit is
refused.
"""

import pytest

from farfield.common.session import Interrupted
from farfield.preprocess.manifest import Manifest, being_made


def write(text: str):
    return lambda path: path.write_text(text)


def never(path):
    raise AssertionError(f"{path} is made again")


def test_finished_files_are_not_made_again_and_removed_ones_are(tmp_path):
    Manifest(tmp_path / "m.json", {"seed": 1}, ["a"]).add("a", write("one"))
    again = Manifest(tmp_path / "m.json", {"seed": 1}, ["a"])
    again.add("a", never)
    (tmp_path / "a").unlink()
    Manifest(tmp_path / "m.json", {"seed": 1}, ["a"]).add("a", write("two"))
    assert (tmp_path / "a").read_text() == "two"
    Manifest(tmp_path / "m.json", {"seed": 1}, ["a"])  # its checksum is the new one


def test_a_kill_after_a_file_and_before_its_checksum_makes_it_again(tmp_path):
    def killed(path):
        path.write_text("half")
        raise SystemExit(9)

    with pytest.raises(SystemExit):
        Manifest(tmp_path / "m.json", {}, ["a"]).add("a", killed)
    Manifest(tmp_path / "m.json", {}, ["a"]).add("a", write("whole"))
    assert (tmp_path / "a").read_text() == "whole"


def test_other_settings_damage_and_files_of_strangers_are_refused(tmp_path):
    (tmp_path / "a").write_text("stranger")
    with pytest.raises(ValueError, match="a exists without m.json; give --rebuild"):
        Manifest(tmp_path / "m.json", {"seed": 1}, ["a"])
    (tmp_path / "a").unlink()
    Manifest(tmp_path / "m.json", {"seed": 1}, ["a"]).add("a", write("one"))
    with pytest.raises(ValueError, match="holds data with seed 1, but 2 is needed; give --rebuild"):
        Manifest(tmp_path / "m.json", {"seed": 2}, ["a"])
    (tmp_path / "a").write_text("onf")
    with pytest.raises(
        ValueError, match="a is damaged .its checksum does not fit m.json.; preprocess .* --rebuild"
    ):
        Manifest(tmp_path / "m.json", {"seed": 1}, ["a"])
    (tmp_path / "m.json").write_text('{"settings": 3}')
    with pytest.raises(ValueError, match="m.json is damaged .no settings or no files."):
        Manifest(tmp_path / "m.json", {"seed": 1}, ["a"])


def test_another_source_is_refused_also_after_reading_the_manifest_again(tmp_path):
    (tmp_path / "raw").write_text("one")
    manifest = Manifest(tmp_path / "m.json", {}, ["a"])
    manifest.check_source({"all": [tmp_path / "raw"]})
    manifest.add("a", write("made"))
    again = Manifest(tmp_path / "m.json", {}, ["a"])
    again.check_source({"all": [tmp_path / "raw"]})
    (tmp_path / "raw").write_text("two")
    with pytest.raises(
        ValueError, match=r"was made from raw \(.*\.\.\.\), given is raw .*another --out"
    ):
        again.check_source({"all": [tmp_path / "raw"]})


def test_a_second_process_is_refused_while_a_folder_is_made(tmp_path):
    refused = pytest.raises(ValueError, match="new is in use by another process; .* --out")
    with being_made(tmp_path / "new"), refused, being_made(tmp_path / "new"):
        pytest.fail("two are inside")
    assert not (tmp_path / "new").exists()  # it stayed empty


def test_an_interruption_says_how_to_go_on_and_a_folder_that_cannot_be_is_refused(tmp_path):
    with (
        pytest.raises(
            Interrupted, match="the same command, without --rebuild, makes what .*new lacks"
        ),
        being_made(tmp_path / "new"),
    ):
        raise KeyboardInterrupt
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="--out .*file/new cannot be written .*; give another"),
        being_made(tmp_path / "file" / "new"),
    ):
        pass

"""What no configuration holds is refused at its limit: depth, length, aliases."""

import pytest
import yaml

from farfield.common import yaml_files
from farfield.common.yaml_files import load_yaml, read_yaml


def test_lists_and_mappings_may_be_nested_twenty_deep():
    for left, right in (("[", "]"), ("{a: ", "}")):
        load_yaml(left * 20 + right * 20)
        with pytest.raises(ValueError, match="line 3 is nested deeper than 20 levels"):
            load_yaml("a:\n- 1\n- " + left * 19 + right * 19)
    # one after the other is not deep
    assert load_yaml("[[1], [2]]") == [[1], [2]]
    assert len(load_yaml("- [1]\n" * 50)) == 50


def test_aliases_count_each_time(monkeypatch):
    monkeypatch.setattr(yaml_files, "MOST_VALUES", 10)
    # the list, its entry &a with two values, two aliases of three values: 1 + 3 + 3 + 3
    assert load_yaml("[&a [1, 2], *a, *a]") == [[1, 2]] * 3
    with pytest.raises(ValueError, match="its aliases stand for 13 values, allowed are 10"):
        load_yaml("[&a [1, 2], *a, *a, *a]")
    assert load_yaml("{a: 1, b: 2}") == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="an alias stands inside its own value"):
        load_yaml("&a [1, *a]")


def test_the_length_of_a_text_is_limited(monkeypatch):
    monkeypatch.setattr(yaml_files, "MOST_CHARACTERS", 6)
    assert load_yaml("a: 123") == {"a": 123}
    with pytest.raises(ValueError, match="it has 7 characters, allowed are 6"):
        load_yaml("a: 1234")


def test_errors_name_the_file_in_one_line(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1,\n b: {")
    with pytest.raises(ValueError, match="x.yaml is not readable as yaml: while") as refused:
        read_yaml(path, yaml.SafeLoader)
    assert "\n" not in str(refused.value)
    path.write_text("")
    assert read_yaml(path) is None

"""Environments of several ranks: what contradicts itself is refused in one line."""

from __future__ import annotations

from datetime import timedelta

import pytest

from farfield.common import ranks
from tests.support.processes import Script
from tests.support.rank_processes import environment_of, free_port

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of a rank, and no others."""

    def put(**values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    put()
    return put


def test_a_process_alone_is_the_first_of_one(environment):
    with ranks.together():
        assert ranks.is_first() and ranks.count() == 1
        assert ranks.gather("it") == ["it"] and ranks.total([1, 2]) == [1, 2]
        assert ranks.from_first("it") == "it" and not ranks.has_begun()
        assert ranks.device_name("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT is not set; start .* torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here"}, "but MASTER_PORT is not set"),
        (environment_of(2, 2, 1), "RANK=2 does not fit WORLD_SIZE=2; ranks are 0 .. 1"),
        (environment_of(0, 2, 1) | {"RANK": "-1"}, "RANK=-1 is not a number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a number of ranks"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a number of ranks"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environment, values, message):
    environment(**values)
    with pytest.raises(ValueError, match=message) as error, ranks.together():
        pytest.fail("it was not refused")
    assert "\n" not in str(error.value)


def test_a_rank_that_finds_nobody_says_where(environment, monkeypatch):
    monkeypatch.setattr(ranks, "RENDEZVOUS", timedelta(seconds=1))
    port = free_port()
    environment(**environment_of(1, 2, port))
    with pytest.raises(ValueError, match=f"rank 1 of 2 did not meet .* 127.0.0.1:{port}") as error:
        ranks.together().__enter__()
    assert "\n" not in str(error.value)


def test_a_script_of_one_process_is_refused_once():
    ranks = [
        Script("-m", "simulate.run_md", "--help", environment=environment_of(rank, 2, 1))
        for rank in range(2)
    ]
    first, second = [one.wait() for one in ranks]
    assert first.returncode == second.returncode == 2
    assert not first.stdout + second.stdout + second.stderr
    assert first.stderr.count("\n") == 1
    assert "(WORLD_SIZE=2); start it with python -m simulate.run_md" in first.stderr

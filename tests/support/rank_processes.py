"""Several ranks of one script, as torchrun would start them, without its agent."""

from __future__ import annotations

import socket

from torch.distributed import TCPStore

from tests.support.processes import Done, Script


def environment_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun sets for a rank of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RankProcesses:
    """``python *command`` for each rank, and the store that torchrun keeps for them."""

    def __init__(self, *commands: list[str]):
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        size = len(commands)
        self.scripts = [
            Script(
                *command,
                environment=environment_of(rank, size, self.store.port)
                | {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            )
            for rank, command in enumerate(commands)
        ]

    def wait(self) -> list[Done]:
        """How each of the ranks ended."""
        return [script.wait() for script in self.scripts]

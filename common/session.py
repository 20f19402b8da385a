"""One session of a run: its signals and its clock.

with SignalWatch() as signals:
    while signals.stop is None:
        ...
"""

import os
import signal
import time


class Interrupted(Exception):
    """A signal stopped the run after its state was written; the message says how to continue."""


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and the child processes that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class SignalWatch:
    """Context in which SIGINT and SIGTERM only set ``stop``; a second signal interrupts at once."""

    def __enter__(self):
        self.stop = None
        self.previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _note(self, number, frame):
        if self.stop is not None:
            raise KeyboardInterrupt
        self.stop = signal.Signals(number).name

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

"""One session of a run: its signals and its clock.

with SignalWatch() as signals:
    while signals.stop is None:
        ...
"""

import os
import signal
import threading
import time

from farfield.common import ranks


class Interrupted(Exception):
    """A signal stopped the run after its state was written; the message says how to continue."""


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and the child processes that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


# Ctrl-C, the end of a job, and a terminal that was closed
SAME_SIGNAL = 10.0  # seconds
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalWatch:
    """Context in which the signals ``WATCHED`` only set ``stop``; a second one interrupts at once.

    Ranks get one signal twice, from the cluster and from torchrun: there a second one interrupts
    after ``SAME_SIGNAL`` seconds.

    Signals that are ignored from outside (nohup) stay ignored. In a thread other than the main one
    Python knows no signals, so none is watched.
    """

    def __enter__(self):
        self.stop, self._since = None, 0.0
        main = threading.current_thread() is threading.main_thread()
        watched = [one for one in WATCHED if signal.getsignal(one) is not signal.SIG_IGN]
        self.previous = {
            number: signal.signal(number, self._note) for number in (watched if main else ())
        }
        return self

    def _note(self, number, frame):
        if self.stop is None:
            self.stop, self._since = signal.Signals(number).name, time.monotonic()
        elif ranks.count() == 1 or time.monotonic() - self._since > SAME_SIGNAL:
            raise KeyboardInterrupt

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

"""One session of a run: its signals and its clock.

with SignalWatch() as signals:
    while signals.stop is None:
        ...
"""

import os
import signal
import threading
import time


class Interrupted(Exception):
    """A signal stopped the run after its state was written; the message says how to continue."""


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and the child processes that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


# Ctrl-C, the end of a job, and a terminal that was closed
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalWatch:
    """Context in which the signals ``WATCHED`` only set ``stop``; a second one interrupts at once.

    Signals that are ignored from outside (nohup) stay ignored. In a thread other than the main one
    Python knows no signals, so none is watched.
    """

    def __enter__(self):
        self.stop = None
        main = threading.current_thread() is threading.main_thread()
        watched = [one for one in WATCHED if signal.getsignal(one) is not signal.SIG_IGN]
        self.previous = {
            number: signal.signal(number, self._note) for number in (watched if main else ())
        }
        return self

    def _note(self, number, frame):
        if self.stop is not None:
            raise KeyboardInterrupt
        self.stop = signal.Signals(number).name

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

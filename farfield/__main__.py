"""``python -m farfield``: the console command without an installation."""

from farfield.console import run

if __name__ == "__main__":
    run()

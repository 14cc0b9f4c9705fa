"""The command line: parse, call the api, print. Nothing heavy is imported before a verb does its work."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's) and return its exit code."""
    try:
        from tunesmith.cli import app  # takes a while, in which a Ctrl-C would end in a traceback

        return app.main(arguments)
    except KeyboardInterrupt:
        return 130

"""The command line: parse, call the api, print. Nothing heavy is imported before a verb does its work."""

from tunesmith.cli.app import main

__all__ = ["main"]

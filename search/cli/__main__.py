"""Runs the command line as `python -m search.cli`."""

from search.cli.app import main

main()

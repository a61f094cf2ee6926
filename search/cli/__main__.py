"""`python -m search.cli`."""

from search.cli.app import main

main()

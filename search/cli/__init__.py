"""The command line, a module for each command: the only part that prints.

Results go to standard output, progress, warnings and errors to standard error. Exit codes: 0 done, 1 failed,
2 misuse.

study_tables, corpus_tables and tables build the tables that commands print. All commands share options and terminal.
"""

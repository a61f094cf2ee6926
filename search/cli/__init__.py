"""The command line, a module for each command: the only part that prints.

app         the `offkey` command: its commands in the order of a first visit
options     options that several commands have
terminal    standard output and error, progress bars
recordings  corpus, analyze, cache
study       demo, init, search, worker, status, dashboard, report, export, stop, rename, delete, studies, settings
detector    train, score, threshold, onnx, evaluate

Results go to standard output, progress, warnings and errors to standard error. Exit codes: 0 done, 1 failed,
2 misuse.
"""

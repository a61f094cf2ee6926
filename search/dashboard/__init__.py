"""The study in a browser.

app       optuna-dashboard behind a password, read-only where wanted
note      the note at the head of a study
exhibits  pictures and sounds of a leading trial
pictures  how the pictures are drawn
"""

"""The study in a browser.

app       optuna-dashboard behind a password, read-only where wanted
note      the note at the head of a study
exhibits  what a leading trial shows: pictures and sounds
pictures  how they are drawn
"""

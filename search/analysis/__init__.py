"""A corpus on one page, before any model is trained: for somebody who is about to write a study file.

settings       the settings that `--set` may change
view           which clips and labels an analysis uses
statistics     each clip's mean and standard deviation over time, for each kind of feature
inventory      the clips of each machine ID, and suspicious ones
separability   which feature tells anomalies from normal clips
differences    how machines, IDs and sets differ
embedding      a map of the clips
listening      the clips to compare by eye and ear
analysis       computes all of these parts
findings       the results in plain language
tables         the rows of the tables
plots          how Plotly draws the charts
pictures       a clip's features over time, and its sound
page           the page itself; index.html is its template
folder         the folder that is written, whole or not at all
outliers       training clips that do not sound normal, and their page; outliers.html is its template
style.css      the style of both pages, beside that of all pages
"""

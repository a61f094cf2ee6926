"""What a corpus sounds like, on one page, before any model: for whoever is about to write a study file.

settings       what `--set` may say
view           which clips may be looked at, and which labels
statistics     each clip's mean and standard deviation over time, of each kind of feature
inventory      what is there
separability   which feature tells anomalies from normal clips
differences    how machines, IDs and sets differ
embedding      a map of the clips
listening      the clips to compare by eye and ear
analysis       all of them, computed
words          what was found, in plain language
tables         the tables' rows
figures        how Plotly draws
pictures       a clip's features over time, and its sound
page           the page itself; index.html is its template
folder         the folder that is written, whole or not at all
outliers       training clips that do not sound normal, and their page; outliers.html is its template
style.css      what both pages add to the look of all pages
"""

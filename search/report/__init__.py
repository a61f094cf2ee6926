"""A study on one page.

page       the page itself, from storage to HTML
page.html  its template: each value is escaped
verdict    the study's result and the next steps, in plain language
tables     the rows of the tables
misses     the worst misses of the best trial, with their sounds
charts     which charts there are, with titles and captions, or why one is missing
plots      how Plotly draws them
"""

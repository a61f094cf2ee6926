"""A study on one page.

page       the page itself, from storage to HTML
page.html  its template: each value is escaped
verdict    what the study says, in plain language
facts      the tables' rows
figures    which figures there are, under which title, or why there is none
plots      how Plotly draws them
"""

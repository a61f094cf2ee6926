"""What HTML pages share: under the report, the analysis and the dashboard.

page          templates, and the charts in them; base.html is what pages look like, charts.html draws charts
media         sounds and pictures as bytes
even_choice   which of many things a page shows
plotly_style  how Plotly's figures look
colours       colours that colour-blind people can tell apart
"""

"""Parts that the HTML pages of the report, the analysis and the dashboard share.

page          templates, and the charts in them; base.html has the layout of all pages, charts.html draws charts
media         sounds and pictures as bytes
even_choice   which of many items a page shows
plotly_style  the style of Plotly's figures
colours       colours that colour-blind people can distinguish
"""

"""What HTML pages share: under the report, the analysis and the dashboard.

plotly_style  how Plotly's figures look
colours       colours that colour-blind people can tell apart
"""

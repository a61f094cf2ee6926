"""The colours of pictures and figures, which colour-blind people can tell apart (Okabe and Ito, 2008)."""

# In the order in which they are told apart most easily.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"

BLACK, GREY, PALE = "#222222", "#7A7A7A", "#E8E8E8"

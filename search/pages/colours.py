"""The colours of pictures and charts, which colour-blind people can distinguish (Okabe and Ito, 2008)."""

# The first ones are the easiest to distinguish.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"

BLACK, GREY, PALE = "#222222", "#7A7A7A", "#E8E8E8"

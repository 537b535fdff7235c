"""The paper's figures: one module a figure, plot functions with Axes in and Axes out; `paper_repro.run` saves them."""

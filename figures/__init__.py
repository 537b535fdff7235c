"""Figures: one module a figure, from the results of `analysis` to PNG and PDF beside this file."""

"""Strategies of the recursion, each against real gradients."""

"""X.

Question: x

Hypothesis: x

Finding: x
"""

"""What the recursion on a graph does where its rules stand still, the cheapest strategy first.

| module | concept |
| --- | --- |
| `strategy` | what a strategy says of itself: where it applies, what it costs, on what its findings rest |
| `registry` | all of them, and the order in which they are tried |
"""

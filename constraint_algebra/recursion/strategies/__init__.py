"""What the recursion on a graph does where its rules stand still, the cheapest strategy first.

| module | concept |
| --- | --- |
| `strategy` | what a strategy says of itself: where it applies, what it costs, on what its findings rest |
| `pool_values` | the input below a selection by pooled values: proven where they leave no room, else by winners |
| `pool_alternation` | the winners of a selection whose gradient is known, by robust alternation |
| `own_statistics` | a value below normalisations with known statistics, where activations hide what they made |
| `branches` | a value below an activation with two branches, with the branch of each output |
| `unknown_statistics` | a value with mean and scale of each group of the normalisation behind it |
| `upwards` | a value below residual blocks, as the only unknown of all that is known above it |
| `registry` | all of them, and the order in which they are tried |
"""

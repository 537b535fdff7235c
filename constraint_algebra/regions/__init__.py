"""Regions: the map from a network's input to its gradients, as long as every activation keeps its side.

| module | concept |
| --- | --- |
| `gradient_map` | the gradients as a function of the input at a given output gradient, and its Jacobian |
| `inequalities` | what keeps every activation on its side |
| `equations` | the rows of the whole map at one input, layer by layer, and what they leave open |
| `rational` | the same over the rationals |
| `whole_map` | its rank, and the values that it determines |
"""

"""Regions: the map from a network's input to its gradients, as long as every activation and every max-pool keeps to it.

| module | concept |
| --- | --- |
| `gradient_map` | the gradients as a function of the input at a given output gradient, and its Jacobian |
| `inequalities` | what keeps every activation of a chain on its side |
| `needs`, `limits` | in a graph: what must follow the map, and how far the rest may go; as inequalities in the input |
| `climb` | how tangents come up through a network at a pattern, and cotangents down |
| `sparse_rows`, `sparse_kernel` | the lowest layers as sparse rows over the input, and what these leave open |
| `seers` | what sees the input: the rows of every layer, of the outputs, of what is kept |
| `equations` | the rows of the whole map at one input, layer by layer, and what they leave open |
| `first_equations` | the rows that keep the first layers as they are: a part, where the whole map is too large |
| `rational` | the whole map over the rationals |
| `whole_map` | its rank, and the values that it determines |
"""

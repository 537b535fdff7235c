"""Theory: what a network's gradients determine, from shapes alone.

| module | concept |
| --- | --- |
| `activity` | which outputs are active: assumed, or as a given input makes them |
| `propagation` | from what is known at one layer to what is known at the next |
| `reasons` | why a layer is not determined, and what would help |
| `composed`, `curved` | the equations of several layers together, for activations linear in pieces and for any |
| `steps` | the recursion, layer by layer, or several with no activation between |
| `limit` | what any method can know |
| `report`, `feasibility` | the report on a whole network |
| `minimum_filters` | how many filters each layer needs |
| `rank_against_filters` | the ranks of one layer over its number of filters |
"""

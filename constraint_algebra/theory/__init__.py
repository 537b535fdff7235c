"""Theory: what a network's gradients determine, from shapes alone.

| module | concept |
| --- | --- |
| `activity` | which outputs are active: assumed, or as a given input makes them |
| `propagation` | from what is known at one layer to what is known at the next |
| `reasons` | why a layer is not determined, and what would help |
| `composed`, `curved` | the equations of several layers together, for activations linear in pieces and for any |
| `steps` | the recursion, layer by layer, or several with no activation between |
| `limit` | what any method can know |
| `winners` | which entry each max-pool takes: assumed, or given |
| `graph_moving` | the same where gradients move with the input |
| `graph_statistics`, `graph_local` | normalisation by own statistics: what flows, and what it says to first order |
| `resting_network`, `graph_resting` | a special network where gradients do not move, and what it says of almost all |
| `graph_limit`, `graph_cost` | the limit of a network that is no chain, and what the theory of one takes |
| `graph_state`, `graph_flow` | what is known of a graph's values and gradients, and how it flows entry by entry |
| `graph_spaces`, `graph_solve`, `graph_joint` | equations of one value, of gradients, of several values together |
| `graph_start`, `graph_recursion` | blind starts and sums; the recursion on a graph |
| `graph_reasons`, `graph_feasibility` | sentences and report of a graph |
| `report`, `feasibility` | the report on a whole network |
| `minimum_filters` | how many filters each layer needs |
| `rank_against_filters` | the ranks of one layer over its number of filters |
"""

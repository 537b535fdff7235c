"""The recursion: from the head's gradient to the network's input, with error bars.

| module | concept |
| --- | --- |
| `head` | where it starts: the output gradient of the head |
| `observation` | what the observer has in hand |
| `buffers` | the statistics that a client's buffers give away |
| `noise` | the precision of what came in, and what rounding does to it |
| `ensemble`, `estimates` | values with their noise, through every step |
| `activation_sides` | on which side of its cut-off an output lies, by evidence |
| `layer_step` | one layer: its equations, its input, what that settles |
| `joint_equations`, `joint_step` | layers with no activation between them, solved together |
| `chain_recursion` | layer after layer through a plain chain, in passes that use more and more |
| `explanations` | several explanations of the same gradients, and what they agree on |
| `batch` | whether a gradient can tell one sample from several |
| `contradictions` | filters whose equations contradict the rest |
| `checks` | the gradients recomputed from the result |
| `row_noise` | how far noise may put each gradient entry from what an input gives |
| `sides_by_sums` | the pattern of a network of pieces, as its bias gradients name it |
| `levels` | beyond the equations, one ground after the other |
| `open_values` | what the range and zeros decide of a value that equations leave open |
| `bits_by_sums`, `bit_equations`, `open_bits` | which outputs a ReLU passed, where its values are open |
| `bits_step` | the gradient at a layer's output with these bits, if all fits |
| `last_step` | a search on all equations at once, where the layers one by one stop |
| `blind_start` | what the gradient of a single layer tells by itself |
| `graph_knowledge` | what is known of a graph of values |
| `entrywise` | affine operations whose outputs are single entries |
| `graph_rules`, `graph_windows`, `graph_statistics` | what each operation tells of the values and gradients around it |
| `value_block`, `value_equations`, `graph_solving` | a value from all layers with a weight that read it |
| `healing` | the same without filters whose equations contradict the rest |
| `normalised_output`, `curved_equations`, `curved_solution` | a value below normalisations with hidden outputs |
| `curved_reader`, `curved_preconditioner` | one layer's share of its equations; their approximate inverse |
| `normalised_reader`, `own_statistics_equations` | a value below normalisations with mean and scale as unknowns |
| `own_statistics_solution`, `own_statistics_local` | these solved: at once, by iteration, near a start |
| `iteration` | fixed points, and how fast an iteration contracts |
| `dual_equations` | an output gradient from what a layer reads |
| `pooled` | a selection as the largest outputs of a layer with a weight, window by window |
| `pooled_values` | what these largest outputs prove of the input by themselves |
| `graph_joint`, `graph_blind` | several unknown sources at once; a start from one layer's gradient alone |
| `blind_scale` | the factor that such a start leaves open |
| `window_equations` | what is known of the input of a layer below a selection, with unknown winners |
| `solved_windows` | the same solved with some winners, and whether they are the ones |
| `normalised_winners`, `normalised_windows` | both below a normalisation whose statistics are known |
| `branching`, `branch_search`, `branch_equations` | a value below an activation with two branches |
| `upward_equations`, `upward_gradients`, `upward_solution` | a value as the only unknown of what is known above it |
| `strategies` | what is done where the rules stand still: winners, branches, statistics |
| `graph_recursion` | the order of all rules, until nothing changes |
| `backsubstitution` | `reconstruct`: from the head to a result |
| `found` | what a recursion found, whichever way it took |
| `result` | what came out, with its status |

Mini-batches and several local steps have their place here.
"""

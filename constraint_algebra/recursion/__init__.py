"""The recursion: from the head's gradient to the network's input, with error bars.

| module | concept |
| --- | --- |
| `head` | where it starts: the output gradient of the head |
| `observation` | what the observer has in hand |
| `noise` | the precision of what came in, and what rounding does to it |
| `ensemble`, `estimates` | values with their noise, through every step |
| `activation_sides` | on which side of its cut-off an output lies, by evidence |
| `layer_step` | one layer: its equations, its input, what that settles |
| `batch` | whether a gradient can tell one sample from several |
| `contradictions` | filters whose equations contradict the rest |
| `checks` | the gradients recomputed from the result |
| `backsubstitution` | layer after layer |
| `result` | what came out, with its status |

Mini-batches and several local steps have their place here.
"""

"""Networks: layers in order, and the passes that go through them.

| module | concept |
| --- | --- |
| `walk` | the one statement of how a value goes up or down through layers |
| `network` | the chain with its shapes, parameters bound by name, forward and backward pass |
| `binding` | arrays of any form under a network's names, in float64 |
| `activation_pattern` | on which side of its cut-offs every output lies |
| `losses` | gradients that a loss can have at the output, and what a head without bias tells of its own |
| `zoo` | the networks of the literature by name |
"""

"""Networks: graphs of values, and the passes that go through them.

| module | concept |
| --- | --- |
| `walk` | the one statement of how a value goes up or down through layers |
| `network` | the graph with its shapes, parameters bound by name, forward and backward pass |
| `placing` | layers as they are written, brought to their places |
| `operations` | what each kind of operation does to values, and to gradients |
| `description` | a layer in words |
| `written` | a network as text, for files |
| `chains` | what has an answer only for networks without shortcuts, pooling and the like |
| `binding` | arrays of any form under a network's names, in float64 |
| `spans` | what values may be, from the activation that made them |
| `activation_pattern` | on which side of its cut-offs every output lies |
| `losses` | gradients that a loss can have at the output, and what a head without bias tells of its own |
| `zoo` | the networks of the literature by name |
| `zoo_builder` | how one with shortcuts is written down there |
| `zoo_residual`, `zoo_imagenet`, `zoo_tutorials` | those: ResNets; VGG, MobileNet, DenseNet; federated learning |
"""

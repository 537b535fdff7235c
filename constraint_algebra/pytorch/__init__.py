"""The bridge to PyTorch: nothing else of the library imports it.

| module | concept |
| --- | --- |
| `gradients` | real gradients of a model, and a model from a network |
| `tracing` | a network from a model |
| `verification` | real gradients of two inputs compared, and their Jacobian |
"""

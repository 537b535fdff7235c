"""The bridge to PyTorch: nothing else of the library imports it.

| module | concept |
| --- | --- |
| `models` | what stands around the layers of a model: wrappers, further outputs and arguments |
| `tensors` | tensors from arrays and back, and from files |
| `unsupported` | why a layer has no equations, and what can be said of its model all the same |
| `operation`, `modules` | layers as modules, and a network as a model |
| `gradients` | real gradients of a model, and a model with parameters from a network |
| `graph` | the graph of a forward pass: one run, recorded call by call |
| `place` | a recorded call on the way to becoming layers |
| `weighted`, `pointwise`, `moving` | what each kind of call becomes |
| `reader` | the whole graph read as layers, or its problems |
| `agreement` | what was read, compared with the model itself |
| `tracing` | a network from a model |
| `verification` | real gradients of two inputs compared, and their Jacobian |
| `whole_map` | the map of the whole network, for any model |
| `polish` | an input that some attack found, brought to rounding |
| `watching`, `affine_reading` | every call in a forward pass; the matrix of an affine function |
| `first_operation` | the layer through which alone a model reads its input |
| `whole_models` | a model where a network is expected |
"""

from importlib.util import find_spec

from constraint_algebra.errors import MissingPackageError

if find_spec("torch") is None:
    raise MissingPackageError(
        'models and real gradients need PyTorch, which is not installed; pip install "constraint-algebra[torch]"'
    )

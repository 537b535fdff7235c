"""Ranks: how many independent equations there are, and which unknowns they determine.

| module | concept |
| --- | --- |
| `knowledge` | what is known at the outputs of a layer, and which equations count for it |
| `polyphase` | the closed form: a stride splits taps and pixels into residue classes |
| `closed_form` | bounds for layers too large for anything but their shapes |
| `generic` | the exact rank for almost all values, modulo a prime |
| `specialisation` | lower bounds at chosen values, for layers too large for elimination |
| `bounded` | the rank of a layer between both bounds |
| `structural` | the rank that the pattern of a whole layer allows |
| `ladder` | all six ranks of one explicit system |
| `determinacy` | which unknowns a system determines |
| `modular_layers`, `modular_activations`, `linear_part` | layers, activations and other operations over residues |
| `modular_statistics` | normalisation by the data's own statistics over residues |
| `modular_network` | a random network over residues, whatever its graph |
| `whole_map` | the rank of all equations of a network together, in its input |
"""

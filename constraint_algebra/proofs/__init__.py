"""Proofs: which inputs no method can tell apart, and which values are the same in all of them.

| module | concept |
| --- | --- |
| `polytope` | the set of inputs with the same gradients, in coordinates |
| `wide`, `barrier` | the same where coordinates are too many: by sparse products; steps far into a set |
| `intervals`, `interval_maps` | smallest and largest value of a pixel over that set |
| `twins` | other points of it |
| `indistinguishable` | the set for a given input |
| `first_layer_rows`, `patches`, `freedom` | what a first layer's equations leave open; outputs that nothing sees |
| `opaque`, `any_model` | the same for a model of which only the first layer is looked into, and for any model |
| `first_layer_equations`, `observer` | the same from gradients alone: what an observer can say |
| `exact` | twins over the rationals |
| `local_uniqueness` | whether any other input nearby has the same gradients, to first order |
| `grounds`, `graph_grounds` | what the real gradients show about the sides of activations, on which claims rest |
| `other_winners` | inputs with the same pooled values and other winners |
| `hit_and_run`, `twin_search` | random points of the set, and twins until every value is settled |
| `certificate` | verdicts with their evidence, on disk |
| `certify` | of every value: fixed, fixed in its region, ambiguous or undecided |
"""

"""A hunt for wrong verdicts: random networks, what the library says of each, and judges that share no code with it.

    python -m tests.hunt --cases 1000 --jobs 2 --out out/hunt.jsonl
    python -m tests.hunt --case 17

From below:

- `recipes`: everything that makes one case, as plain data that is drawn from a seed and can be made smaller.
- `pictures`: the inputs, ordinary ones and those made to mislead.
- `models`: the PyTorch module of a recipe, with its defects, as it comes out of its training.
- `subjects`: the case itself: network, parameters, gradients as an observer has them, and the truth.
- `oracle`: automatic differentiation in float64: gradients anew, and how they move with the input.
- `verdicts`: what a reconstruction claims, against truth and oracle.
- `statements`: what `feasibility` and `certify` claim, against the oracle.
- `judging`: one case from recipe to record, faults and calibration in it.
- `pretended`: judges for the tests of the hunt itself.
- `shrinking`: the simplest case that still has a fault.
- `records`: what came of a case, one line of JSON each in a file that a kill leaves whole.
- `running`: many cases in processes of their own.
- `tables`: counts and calibration of many records.
"""

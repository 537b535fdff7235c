"""A hunt for wrong verdicts: random networks, what the library says of each, and judges that share no code with it.

    python -m tests.hunt --cases 1000 --jobs 2 --out out/hunt.jsonl
    python -m tests.hunt --case 17

From below:

- `recipes`: everything that makes one case, as plain data that can be made smaller.
- `kinds`: cases made on purpose, for kinds of faults and for judges that only small ones have.
- `drawing`: a recipe from a seed.
- `pictures`: the inputs, ordinary ones and those made to mislead.
- `models`: the PyTorch module of a recipe, with its defects, as it comes out of its training.
- `subjects`: the case itself: network, parameters, gradients as an observer has them, and the truth.
- `oracle`: automatic differentiation in float64: gradients anew, and how they move with the input.
- `rational`: what the equations of a small chain determine, by exact elimination over the rationals.
- `other_inputs`: other inputs with the same gradients, by a search all over the range.
- `verdicts`: what a reconstruction claims, against truth and oracle.
- `statements`: what grounds, `feasibility` and `certify` claim, against all these.
- `judging`: one case from recipe to record, faults and calibration in it.
- `pretended`: judges for the tests of the hunt itself.
- `shrinking`: the simplest case that still has a fault.
- `records`: what came of a case, one line of JSON each in a file that a kill leaves whole.
- `running`: many cases in processes of their own.
- `tables`: what many records say: what must hold, counts, calibration; `results/table.md` is the last large one.
"""

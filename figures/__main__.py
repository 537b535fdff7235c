"""Figures from the command line, run as a module from the root of the repository.

python -m figures NAME|gallery|all [--results-dir DIR] [--out-dir DIR]
"""

from constraint_algebra.commands.exits import end_on_termination, outcomes

if __name__ == "__main__":
    with outcomes():
        end_on_termination()
        from constraint_algebra.commands.terminal import run_alone
        from figures.command import main

        run_alone(main)

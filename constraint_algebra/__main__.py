"""`python -m constraint_algebra` is the command `constraint-algebra`."""

from constraint_algebra.commands.exits import end_on_termination, outcomes


def main() -> None:
    """Run the command; an interruption while packages load ends as any other."""
    with outcomes():
        end_on_termination()
        from constraint_algebra.commands.app import app

        app(prog_name="constraint-algebra")


if __name__ == "__main__":
    main()

"""Studies from the command line, see `command`."""

from constraint_algebra.commands.exits import end_on_termination, outcomes


def main() -> None:
    """Run the command; an interruption while packages load ends as any other."""
    with outcomes():
        end_on_termination()
        from analysis.command import app

        app(prog_name="python -m analysis")


if __name__ == "__main__":
    main()

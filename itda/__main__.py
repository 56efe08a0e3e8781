"""`python -m itda` is the command line, for environments whose scripts are not on the path."""

from itda.cli import main

if __name__ == "__main__":
    main()

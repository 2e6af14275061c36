"""`python -m skiptune` is the command line."""

from skiptune.cli import main

if __name__ == "__main__":
    main()

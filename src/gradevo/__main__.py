"""`python -m gradevo`, which is how torchrun starts the command."""

from gradevo.cli import main

if __name__ == "__main__":
    main()

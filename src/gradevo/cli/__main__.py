"""`python -m gradevo.cli`."""

from gradevo.cli import main

main()

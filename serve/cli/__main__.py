"""`python -m serve.cli`, for starting the command line without its console script."""

from serve.cli import main

main()

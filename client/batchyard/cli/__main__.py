"""`python -m batchyard.cli`: the `batchyard` command where its script is not on the path."""

from batchyard.cli.main import main

main()

"""The `batchyard` command. Starting it imports click alone: each command imports what it needs when it runs."""

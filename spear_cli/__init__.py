"""The command line: options, help, progress. Each command calls the stage of its own name."""

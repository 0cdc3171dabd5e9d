"""The command line: a file a command group; each subcommand is one public call."""

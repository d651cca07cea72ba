"""The command `asimov-sync`. Only this package prints."""

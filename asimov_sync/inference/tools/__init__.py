"""Tools: functions that a model may call, the loop that calls them, and their threads."""

"""Tools: what a model may call, the loop that calls them, and the threads that they run on."""

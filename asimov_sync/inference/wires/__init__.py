"""The wires: what requests and replies look like to each provider, and how a stream is folded. Pure: no IO, no clock."""

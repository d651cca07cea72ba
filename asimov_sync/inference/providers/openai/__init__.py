"""OpenAI and compatible servers: the client, and the wire of chat completions."""

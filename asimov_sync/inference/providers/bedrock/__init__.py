"""AWS Bedrock: its client, and the wires of InvokeModel and Converse."""

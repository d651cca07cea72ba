"""The task graph: building one, running one, and what came of it."""

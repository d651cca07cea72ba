"""What all gunicorns of these tests have in common; each version takes of it what it knows."""

preload_app = True
workers = 2
graceful_timeout = 5
control_socket_disable = True  # newer ones put a socket into the user's home

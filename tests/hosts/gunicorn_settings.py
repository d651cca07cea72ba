"""The settings that all gunicorn tests share. Each version of gunicorn ignores unknown ones."""

preload_app = True
workers = 2
graceful_timeout = 5
control_socket_disable = True  # newer versions would create a socket in the user's home
